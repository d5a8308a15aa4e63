"""Journal rows to files. Blocks: runs in the worker process, which reads the journal and writes nothing but files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ingester.history import files
from ingester.history.duplicates import resolve_readings
from ingester.history.journal import part_of, readings_of_rows, remembered, rows_of_job, sound_row
from ingester.history.model import DAY_US, MIXED, SOUND, TRIAL, Job, Reading, Sealed, SealedFile, folder_of, has_folder
from ingester.history.rollup import roll_up
from ingester.sqlite.rows import JournalRow

_PARTITIONS = 64
"""Files with one stream and day that are made at once; readings of other streams and days share a file."""


def seal(job: Job) -> Sealed:
    """Write the files. Nothing refers to them yet; of a trial none is left."""
    rows, until = rows_of_job(job)
    if job.part is None:
        return _sealed(job, rows, until)
    with TemporaryDirectory(dir=job.journal.parent, prefix=TRIAL) as folder:
        part = part_of(rows, *job.part) if job.part != SOUND else [sound_row(0)]
        return _sealed(replace(job, folder=Path(folder)), part, until)


def _sealed(job: Job, rows: Sequence[JournalRow], until: int) -> Sealed:
    readings, count = readings_of_rows(rows, job.rules)
    fresh = _without_earlier(job, resolve_readings(readings, job.rules))
    written = write_partitions(job.folder, job.name, fresh)
    return Sealed(written, until, count, remembered(rows), roll_up(job.folder, job.name, written))


def _without_earlier(job: Job, readings: list[Reading]) -> list[Reading]:
    """Readings but for those that are to be dropped, because one of their device, stream and time is in a file."""
    drops = {stream for stream in {one.stream for one in readings} if job.rules.of(stream).duplicates == "drop"}
    if not drops or not job.earlier:
        return readings
    times = [one.time for one in readings if one.stream in drops]
    known = {
        key
        for file in job.earlier
        if file.stream in drops or file.stream == MIXED
        for key in files.keys(job.folder, file, min(times), max(times))
    }
    return [one for one in readings if one.stream not in drops or (one.device, one.stream, one.time) not in known]


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
