"""`export`: telemetry of a stream as files, a file for each day; with a watermark only what is new."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from fleet.files import write_private
from fleetgate.analytics.quoting import quoted_name
from fleetgate.cli.operations import progress_bars
from fleetgate.cli.output import print_list
from fleetgate.cli.target import Api, ConfigOption, JsonOption, StateOption, Target, api, run, target
from fleetgate.errors import ArgumentError
from fleetgate.times import iso, parse_time
from ingester.clock import now_us

_COLUMNS = ("file", "rows", "bytes")
_LARGE_DAY = 2_000_000
"""Readings beyond which a day becomes a file for each hour."""
_NAME = 150
"""Characters of a stream's name in that of a file: file systems take 255 in all."""
_LIMITS = {"rows": 10_000_000, "seconds": 600, "memory_bytes": 4 * 1024**3}


class ExportFormat(StrEnum):
    """What is written."""

    PARQUET = "parquet"
    CSV = "csv"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(export)


def export(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="Folder for the files; it is made.")],
    stream: Annotated[str, typer.Option(help="Which stream.")] = "default",
    start: Annotated[str | None, typer.Option("--from", help="ISO 8601 or -1h, by the device's time.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="ISO 8601 or -1h.")] = None,
    form: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.PARQUET,
    watermark: Annotated[
        Path | None,
        typer.Option(help="File that remembers up to which time of receipt all is exported: only what came later is."),
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Write readings of a stream into files, one a day, sorted by device and time; prints which.

    With --watermark it can be asked again and again: each reading is exported once, whenever the device says that it
    was. A run that was stopped is made good by the next one, into the same files.
    """
    now = now_us()
    where = [
        f"time {sign} {_literal(parse_time(text, name, now))}"
        for text, name, sign in ((start, "from", ">="), (end, "to", "<="))
        if text is not None
    ]
    out.mkdir(parents=True, exist_ok=True)
    found = run(_export(target(context, state, config), out, stream, where, form, watermark))
    print_list(_COLUMNS, found, as_json=as_json)


async def _export(
    on: Target, out: Path, stream: str, where: list[str], form: ExportFormat, watermark: Path | None
) -> list[dict[str, Any]]:
    written = []
    async with api(on) as owner:
        marked, until = "", ""
        if watermark is not None:
            since = _read(watermark)
            until = (await owner.call("GET", "/telemetry/settled", timeout=None))["until"]
            if since > parse_time(until, "until", 0):
                raise ArgumentError(
                    f"watermark {watermark}: {iso(since)} is later than {until}, the end of what is complete: the clock"
                    " was set back. Write the time into the file from which to export again"
                )
            where = [*where, f"received > {_literal(since)}", f"received <= '{until}'"]
            marked = f"-after-{iso(since).replace(':', '').replace('-', '')}"
        view = f"streams.{quoted_name(stream)}"
        days = await _ask(owner, f"SELECT epoch_us(date_trunc('day', time)) AS day, count(*) AS rows FROM {view}"
                          f"{_where(where)} GROUP BY 1 ORDER BY 1")  # fmt: skip
        with progress_bars() as bars:
            bar = bars.add_task("readings", total=sum(day["rows"] for day in days))
            for day in days:
                for label, first, last in _spans(day["day"], hourly=day["rows"] > _LARGE_DAY):
                    part = [*where, f"time >= {_literal(first)}", f"time < {_literal(last)}"]
                    sql = f"SELECT * FROM {view}{_where(part)} ORDER BY device, time"
                    data, rows = await _fetch(owner, sql, form)
                    if rows:
                        path = out / f"{_named(stream)}-{label}{marked}.{form.value}"
                        write_private(path, data)
                        written.append({"file": str(path), "rows": rows, "bytes": len(data)})
                    bars.advance(bar, rows)
    if watermark is not None:
        write_private(watermark, until.encode() + b"\n")
    return written


def _named(stream: str) -> str:
    """The stream's name in that of a file, whose length is limited: a digest tells long ones apart."""
    name = quote(stream, safe="")
    return name if len(name) <= _NAME else f"{name[:_NAME]}-{blake2b(stream.encode(), digest_size=8).hexdigest()}"


def _read(watermark: Path) -> int:
    """The time in it; 1970-01-01 where there is none yet."""
    try:
        return parse_time(watermark.read_text().strip(), f"watermark {watermark}", 0)
    except FileNotFoundError:
        return 0
    except UnicodeDecodeError:
        raise ArgumentError(f"watermark {watermark}: it has no time in it") from None


def _spans(day: int, *, hourly: bool) -> Iterator[tuple[str, int, int]]:
    """(label, first, behind the last) of the files of a day."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=day)
    if not hourly:
        yield f"{moment:%Y-%m-%d}", day, day + 86_400_000_000
        return
    for hour in range(24):
        first = day + hour * 3_600_000_000
        yield f"{moment:%Y-%m-%d}T{hour:02}", first, first + 3_600_000_000


async def _ask(owner: Api, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await owner.call("POST", "/sql", json={"sql": sql, **_LIMITS}, timeout=None)
    return found


async def _fetch(owner: Api, sql: str, form: ExportFormat) -> tuple[bytes, int]:
    """A result, and how many rows it has."""
    response = await owner.answer("POST", "/sql", json={"sql": sql, "format": form.value, **_LIMITS}, timeout=None)
    return response.content, int(response.headers["Fleetgate-Rows"])


def _where(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _literal(microseconds: int) -> str:
    return f"make_timestamptz({microseconds})"
