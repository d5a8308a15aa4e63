"""Journal rows to files. Blocks: runs in the worker process, which reads the journal and writes nothing but files."""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ingester.batch import copy_digest
from ingester.history import files
from ingester.history.columns import Reading
from ingester.history.duplicates import resolve_readings
from ingester.history.model import DAY_US, Job, Sealed, SealedFile, folder_of, has_folder
from ingester.history.rollup import roll_up
from ingester.history.rules import Rules
from ingester.sqlite.remembered import pack_entries
from ingester.sqlite.rows import COLUMNS, CorruptRowError, JournalRow, messages, readable

_ALL = 2**62
_DAMAGED = ("damaged",)
"""Marks of a message whose journal row no longer reads."""
_PARTITIONS = 64
"""Files with one stream and day that are made at once; readings of other streams and days share a file."""


def seal(job: Job) -> Sealed:
    """Write the files. Nothing refers to them yet."""
    rows, until = _rows(job)
    readings, count = _readings(rows, job.rules)
    written = write_partitions(job.folder, job.name, resolve_readings(readings, job.rules))
    return Sealed(written, until, count, _remembered(rows), roll_up(job.folder, job.name, written))


def journal_readings(journal: Path, above: int, rules: Rules) -> list[Reading]:
    """Readings of all journal rows with ids above this, in the order of receipt."""
    rows, _ = _rows(Job(journal, journal.parent, "", above, _ALL, _ALL))
    return _readings(rows, rules)[0]


def _rows(job: Job) -> tuple[list[JournalRow], int]:
    with closing(sqlite3.connect(f"file:{job.journal}?mode=ro", uri=True, timeout=30)) as connection:
        found: list[JournalRow] = []
        count, until = 0, job.after
        cursor = connection.execute(
            f"SELECT {COLUMNS} FROM journal WHERE id > ? AND id <= ? ORDER BY id", (job.after, job.until)
        )
        for row in cursor:
            found.append(row)
            until = row[0]
            count += 1 if row[7] is None else len(row[7]) // 4
            if count >= job.most:
                return found, until
    return found, job.until


def _readings(rows: Sequence[JournalRow], rules: Rules) -> tuple[list[Reading], int]:
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


def write_partitions(folder: Path, name: str, readings: Sequence[Reading]) -> list[SealedFile]:
    """A file for each stream and day, and one for what is left."""
    places = [(reading.stream, reading.time // DAY_US) for reading in readings]
    largest = {place for place, _ in Counter(places).most_common(_PARTITIONS) if has_folder(place[0])}
    parts: dict[tuple[str, int] | None, list[Reading]] = {}
    for place, reading in zip(places, readings, strict=True):
        parts.setdefault(place if place in largest else None, []).append(reading)
    return [
        files.write(folder, folder_of(*place) if place is not None else folder_of("", None), name, part)
        for place, part in parts.items()
    ]


def _remembered(rows: Sequence[JournalRow]) -> dict[str, bytes]:
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
