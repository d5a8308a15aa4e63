"""What reads files, loaded when there is something to read: pyarrow takes half a second and 60 MB. All of it blocks."""

from pathlib import Path

from ingester.history.model import DamagedError, Reading, RollupFile, SealedFile, Sum, Without
from ingester.store import Row, Selection

# Imports are inside of the functions because they are of the extra `analytics`.


def read(folder: Path, file: SealedFile, selection: Selection) -> tuple[list[Row], list[DamagedError]]:
    """Readings of a device, in the order of time; and what of the file is damaged."""
    from ingester.history import columns, files

    chosen = selection.device, selection.stream, selection.start, selection.end
    found, damaged = files.read_device(folder, file, *chosen)
    return columns.rows_of(found), damaged


def latest(folder: Path, file: SealedFile, limit: int) -> list[Row]:
    """The readings of a file that were received last, in that order. Raises DamagedError."""
    from ingester.history import columns, files

    return columns.rows_of(files.latest(folder, file, limit))


def all_readings(folder: Path, file: SealedFile) -> tuple[list[Reading], list[DamagedError]]:
    """Everything in a file that reads; and what is wrong with it."""
    from ingester.history import columns, files

    tables, _ = files.read_sound(folder, file)
    readings = [reading for table in tables for reading in columns.readings_of(table, file.stream)]
    return readings, files.check(folder, file)


def without_device(folder: Path, file: SealedFile, device: str) -> Without | None:
    """See files.without_device."""
    from ingester.history import files

    return files.without_device(folder, file, device)


def sums(folder: Path, part: RollupFile, selection: Selection, field: str) -> list[Sum]:
    """See rollup.read_sums."""
    from ingester.history import rollup

    return list(rollup.read_sums(folder, part, selection, field))


def rollup_without_device(folder: Path, part: RollupFile, device: str, name: str) -> list[RollupFile] | None:
    """See rollup.rollup_without_device."""
    from ingester.history import rollup

    return rollup.rollup_without_device(folder, part, device, name)


def check(folder: Path, file: SealedFile) -> list[DamagedError]:
    """See files.check."""
    from ingester.history import files

    return files.check(folder, file)
