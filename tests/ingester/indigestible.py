"""Doubles of what the worker does, for which some messages are too much."""

import os
from pathlib import Path

from ingester.history import compact, files, seal
from ingester.history.columns import readings_of
from ingester.history.journal import part_of, rows_of_job
from ingester.history.model import SOUND, Job, Merge, Sealed, SealedFile
from ingester.sqlite.rows import messages


def seal_or_raise(job: Job) -> Sealed:
    """Sealing, which a message with `poison` in it stops, and two with `shy` do together."""
    payloads = _payloads(job)
    if (job.folder.parent / "full").exists():
        raise OSError(28, "No space left on device")
    if (job.folder.parent / "broken").exists():
        raise ZeroDivisionError("whatever it is given")
    if (bad := [payload for payload in payloads if b"poison" in payload]) or sum(b"shy" in one for one in payloads) > 1:
        raise TypeError(f"can't seal {bad}\nsecond line")
    return seal.seal(job)


def seal_or_try(job: Job) -> Sealed:
    """Every trial goes well, and the work itself never; a name with `long` in it is too long for the disk."""
    if any(b"long" in payload for payload in _payloads(job)):
        raise OSError(36, "File name too long")
    if job.part is None and (job.folder.parent / "broken").exists():
        raise TypeError("all but trials")
    return seal.seal(job)


def seal_or_die(job: Job) -> Sealed:
    """The process ends with such a message, and with any as long as the machine has no memory."""
    dead = any(b"poison" in payload for payload in _payloads(job))
    if dead or (job.folder.parent / "no memory").exists():
        os._exit(9)
    return seal.seal(job)


def merge_or_raise(job: Merge) -> list[SealedFile]:
    """Merging, which a reading with a field `poison` stops."""
    for file in job.files:
        for table in files.read_all(Path(job.folder), file):
            if any("poison" in str(reading.fields) for reading in readings_of(table, file.stream)):
                raise TypeError("can't merge this")
    return compact.merge(job)


def _payloads(job: Job) -> list[bytes]:
    rows, _ = rows_of_job(job)
    if job.part == SOUND:
        return []
    chosen = rows if job.part is None else part_of(rows, *job.part)
    return [payload for row in chosen for _, payload, _ in messages(row)]
