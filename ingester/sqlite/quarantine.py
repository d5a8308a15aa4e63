"""SQL of the quarantine."""

from collections.abc import Iterable, Sequence
from typing import Any

from ingester.ages import Span
from ingester.batch import Quarantined

Statement = tuple[str, tuple[Any, ...]]

INSERT = "INSERT INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
AS_READ = "id = ? AND payloads = ? AND lengths IS ?"
"""Condition for a row of the journal that has not changed since it was read."""
INSERT_IF = f"INSERT INTO quarantine SELECT {', '.join('?' * 10)} WHERE EXISTS (SELECT 1 FROM journal WHERE {AS_READ})"
"""The same as INSERT, if there is such a row."""
_COLUMNS = "received, device, stream, reason, detail, payload, topic, id, codec, content_type"
SUMMARY = """
SELECT reason, sum(messages), sum(size), coalesce(max(oldest), 0), sum(expired) FROM (
    SELECT reason, count(*) AS messages, sum(length(payload)) AS size, min(received) AS oldest, 0 AS expired
    FROM quarantine GROUP BY reason
    UNION ALL SELECT reason, 0, 0, NULL, messages FROM quarantine_expired
) GROUP BY reason ORDER BY reason
"""
_OLD = (
    "id IN (SELECT id FROM quarantine WHERE (received < ? OR received <= ?){spared} ORDER BY id LIMIT ?)"
    " AND received < ?"
)
_SURPLUS = """
id IN (
    SELECT id FROM (
        SELECT id, own, sum(size) OVER (ORDER BY own, id DESC) AS kept FROM (
            SELECT id, length(payload) AS size,
                sum(length(payload)) OVER (PARTITION BY device ORDER BY id DESC) AS own
            FROM quarantine
        )
    ) WHERE kept > ? ORDER BY own DESC, id LIMIT ?
)
"""
"""`own`: bytes of a message and the newer ones of its device. Messages with the least of it are kept: one device that
fills the quarantine pushes out its own."""


def rows(quarantined: Sequence[Quarantined], first_id: int) -> list[tuple[Any, ...]]:
    """Rows for INSERT. Text that can't be stored must not keep its message out of quarantine."""
    return [
        (entry_id, item.received, *map(_storable, (item.device, item.stream, item.topic)), item.reason,
         _storable(item.detail), item.payload, item.codec, _storable(item.content_type))
        for entry_id, item in enumerate(quarantined, first_id)
    ]  # fmt: skip


def select(after: int, limit: int, ids: Sequence[int] | None, reason: str | None) -> Statement:
    """Statement for rows of Quarantined."""
    where, values = "id > ?", [after]
    if ids is not None:
        where += f" AND id IN ({','.join(str(int(entry)) for entry in ids) or 'NULL'})"
    if reason is not None:
        return f"SELECT {_COLUMNS} FROM quarantine WHERE {where} AND reason = ? ORDER BY id LIMIT ?", (
            *values,
            reason,
            limit,
        )
    return f"SELECT {_COLUMNS} FROM quarantine WHERE {where} ORDER BY id LIMIT ?", (*values, limit)


def expire(cutoff: int, limit: int, now: int, spans: Sequence[Span]) -> list[Statement]:
    """Statements that count the oldest messages received before `cutoff`, and delete them; the last one deletes.

    What seems to be received after `now` is passed over, and `spans` of times of receipt are spared.
    """
    return _counted(_OLD.format(spared=outside("received", spans)), (cutoff, now, limit, cutoff))


def outside(column: str, spans: Iterable[Span]) -> str:
    """A condition, for behind others, that a time is in none of the spans."""
    return "".join(f" AND NOT {column} BETWEEN {first:d} AND {last:d}" for first, last in spans)


def trim(max_bytes: int, limit: int) -> list[Statement]:
    """The same, for messages beyond `max_bytes`: the oldest of the devices that have most."""
    return _counted(_SURPLUS, (max_bytes, limit))


def _counted(where: str, values: tuple[Any, ...]) -> list[Statement]:
    return [
        (
            f"INSERT INTO quarantine_expired SELECT reason, count(*) FROM quarantine WHERE {where} GROUP BY reason"
            " ON CONFLICT (reason) DO UPDATE SET messages = messages + excluded.messages",
            values,
        ),
        (f"DELETE FROM quarantine WHERE {where}", values),
    ]


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
