"""Journal rows as readings, read beside the process that writes them. Blocks."""

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from ingester.batch import copy_digest
from ingester.history.model import Culprit, Job, Reading
from ingester.history.rules import Rules
from ingester.sqlite.opening import read_only
from ingester.sqlite.remembered import pack_entries
from ingester.sqlite.rows import (
    COLUMNS,
    CorruptRowError,
    JournalRow,
    count_of,
    lengths_of,
    messages,
    readable,
    select_messages,
)

_ALL = 2**62
_DAMAGED = ("damaged",)
"""Marks of a message whose journal row no longer reads."""


def journal_readings(journal: Path, above: int, rules: Rules) -> list[Reading]:
    """Readings of all journal rows with ids above this, in the order of receipt."""
    rows, _ = rows_of_job(Job(journal, journal.parent, "", above, _ALL, _ALL, most_bytes=_ALL))
    try:
        return readings_of_rows(rows, rules)[0]
    except ValueError:  # a row that can't be taken apart, until it is set aside
        return readings_of_rows([row for row in rows if _is_whole(row)], rules)[0]


def rows_of_job(job: Job) -> tuple[list[JournalRow], int]:
    """As many rows as a job takes, and the id up to which these are all."""
    with closing(read_only(Path(job.journal), 30)) as connection:
        found: list[JournalRow] = []
        count, size, until = 0, 0, job.after
        cursor = connection.execute(
            f"SELECT {COLUMNS} FROM journal WHERE id > ? AND id <= ? ORDER BY id", (job.after, job.until)
        )
        for row in cursor:
            found.append(row)
            until = row[0]
            count += count_of(row)
            size += len(row[8])
            if count >= job.most or size >= job.most_bytes:
                return found, until
    return found, job.until


def count_messages(job: Job) -> int:
    """How many messages a job has."""
    return sum(map(count_of, rows_of_job(job)[0]))


def part_of(rows: Sequence[JournalRow], start: int, stop: int) -> list[JournalRow]:
    """Rows with messages `start` to `stop` of all messages in rows, no more. One whose messages can't be told from each
    other stays whole.
    """
    found, first = [], 0
    for row in rows:
        count = count_of(row)
        low, high = max(start - first, 0), min(stop - first, count)
        first += count
        if low < high:
            found.append(row if high - low == count or not _is_whole(row) else select_messages(row, range(low, high)))
    return found


def sound_row(received: int) -> JournalRow:
    """A row with a message that nothing is wrong with."""
    return 1, "d", "s", received, received, received, None, None, b'{"n": 1}', None, None, None, None


def _is_whole(row: JournalRow) -> bool:
    try:
        return len(list(messages(row))) == count_of(row) and sum(lengths_of(row)) == len(row[8])
    except ValueError:
        return False


def culprit_of(job: Job, position: int | None) -> Culprit:
    """The message at this position of a job's messages, None: all of its first row; and the row without it."""
    places = ((row, at) for row in rows_of_job(job)[0] for at in range(count_of(row)))
    row, at = next(islice(places, position, None))
    count = count_of(row)
    if not _is_whole(row):
        return Culprit(row, (0, count), None, [(row[5], row[8])], {})
    part = (0, count) if position is None else (at, at + 1)
    only = select_messages(row, range(*part))
    others = [index for index in range(count) if index not in range(*part)]
    left = select_messages(row, others) if others else None
    return Culprit(
        row, part, left, [(received, payload) for received, payload, _ in messages(only)], remembered([only])
    )


def readings_of_rows(rows: Sequence[JournalRow], rules: Rules) -> tuple[list[Reading], int]:
    """Readings in the order of receipt, and of how many messages."""
    found: list[Reading] = []
    count = 0
    for row in rows:
        device, stream = row[1], row[2]
        keeps = rules.keeps_payload(stream)
        for received, payload, kept in messages(row):
            count += 1
            try:
                readings = readable(payload, received, kept)
            except CorruptRowError:
                # It could be read when it was stored. What is left of it is kept, as it is.
                found.append(Reading(device, stream, received, received, 0, None, _DAMAGED, {}, payload))
                continue
            for position, reading in enumerate(readings):
                found.append(
                    Reading(
                        device,
                        stream,
                        reading.found_at,
                        received,
                        position,
                        None if reading.plausible else reading.time,
                        reading.marks,
                        reading.fields,
                        payload if keeps and not position else None,
                    )
                )
    return found, count


def remembered(rows: Sequence[JournalRow]) -> dict[str, bytes]:
    """The last entries of each device that has sent anything with a packet id, oldest first."""
    entries: dict[str, list[tuple[int, int, int, bytes]]] = {}
    for row in rows:
        packet_ids = row[10]
        if packet_ids is None:
            continue
        device, stream, connection = row[1], row[2], row[9] or 0
        mine = entries.setdefault(device, [])
        for index, (received, payload, _) in enumerate(messages(row)):
            number = int.from_bytes(packet_ids[2 * index : 2 * index + 2])
            if number:
                mine.append((received, connection, number, copy_digest(stream, payload)))
    return {device: pack_entries(found) for device, found in entries.items() if found}
