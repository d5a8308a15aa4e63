"""One field of many devices over time, as a question in SQL. Pure."""

from dataclasses import dataclass

from fleetgate.analytics.quoting import quoted_pointer, quoted_text
from fleetgate.errors import ArgumentError

COLUMNS = ("type", "site", "state")
ATTRIBUTES = "attributes."


@dataclass(frozen=True, slots=True)
class Asked:
    """Field `name` in stretches of `width` microseconds, of readings found from `start` to `end` (None: open).

    `by`: apart for each type, site, state or value of an attribute of the devices, or for each device; empty: all
    together.
    """

    name: str
    width: int
    stream: str | None = None
    start: int | None = None
    end: int | None = None
    by: str = ""


def sql_of(asked: Asked, *, chosen: bool) -> str:
    """The SELECT: `time, count, min, max, avg, devices`, and `by` where that is asked for.

    `chosen`: only devices of the table `chosen`. Raises ArgumentError.
    """
    start = f"make_timestamptz(epoch_us(time) // {asked.width} * {asked.width})"
    where = [f"field = {quoted_text(asked.name)}", "value IS NOT NULL"]
    if asked.stream is not None:
        where.append(f"stream = {quoted_text(asked.stream)}")
    where += [
        f"time {sign} make_timestamptz({bound})"
        for sign, bound in ((">=", asked.start), ("<=", asked.end))
        if bound is not None
    ]
    if chosen:
        where.append("device IN (SELECT name FROM chosen)")
    by = _by(asked.by)
    apart = f' {by} AS "by",' if by else ""
    join = " JOIN devices ON device = name" if by and asked.by != "device" else ""
    return (
        f"SELECT {start} AS time,{apart} count(*) AS count, min(value) AS min,"
        " max(value) AS max, avg(value) AS avg, count(DISTINCT device) AS devices"
        f" FROM readings{join} WHERE {' AND '.join(where)} GROUP BY ALL ORDER BY ALL"
    )


def _by(by: str) -> str:
    if by in {"", "device", *COLUMNS}:
        return by
    if by.startswith(ATTRIBUTES):
        return f"json_extract_string(attributes, {quoted_pointer(by[len(ATTRIBUTES) :])})"
    raise ArgumentError(f"by: {by[:80]!r} is none of device, {', '.join(COLUMNS)}, {ATTRIBUTES}KEY")
