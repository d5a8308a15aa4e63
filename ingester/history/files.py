"""Files of the history: written whole and synced, read by row groups, checked page by page."""

import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingester.history.columns import readings_of, table_of
from ingester.history.model import MIXED, DamagedError, Reading, RollupFile, SealedFile, Without

ROW_GROUP = 32_768
"""Readings that are read together: smaller ones answer a device's questions sooner, and take more bytes."""
_DICTIONARY_BYTES = 4 * 1024 * 1024
"""Of a column in a row group: readings with few decimals repeat, and an index into what repeats is small."""
_LEVEL = 9
_FOOTERS = 2000


def write(folder: Path, place: PurePosixPath, name: str, readings: Sequence[Reading]) -> SealedFile:
    """Write readings of one stream and day, or of many, into `folder`/`place`/`name`.parquet; synced when it returns.

    The file appears under its name when it is whole.
    """
    mixed = place.parts[0] == "mixed"
    table, fields = table_of(readings, mixed=mixed)
    path = place / f"{name}.parquet"
    size, sha256 = write_table(folder, path, table, ("device", "time"))
    times = [reading.time for reading in readings]
    return SealedFile(
        str(path),
        MIXED if mixed else readings[0].stream,
        len(readings),
        sum(not reading.position for reading in readings),
        min(times),
        max(times),
        max(reading.received for reading in readings),
        size,
        sha256,
        fields,
    )


def write_table(folder: Path, path: PurePosixPath, table: pa.Table, order: Sequence[str]) -> tuple[int, str]:
    """Write a sorted table to `folder`/`path`: its bytes and SHA-256. Synced, and under its name when it is whole."""
    target = folder / path
    _make(target.parent)
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        _write_columns(table, file, order)
        file.flush()
        os.fsync(file.fileno())
    data = partial.read_bytes()
    partial.rename(target)
    _sync(target.parent)
    return len(data), hashlib.sha256(data).hexdigest()


def _write_columns(table: pa.Table, file: Any, order: Sequence[str]) -> None:
    delta = {
        column.name: "DELTA_BINARY_PACKED"
        for column in table.schema
        if pa.types.is_integer(column.type) or pa.types.is_timestamp(column.type)
    }
    pq.write_table(
        table,
        file,
        row_group_size=ROW_GROUP,
        compression="zstd",
        compression_level=_LEVEL,
        use_dictionary=[name for name in table.column_names if name not in delta and name != "payload"],
        dictionary_pagesize_limit=_DICTIONARY_BYTES,
        column_encoding=delta,
        write_page_checksum=True,
        sorting_columns=pq.SortingColumn.from_ordering(table.schema, [(name, "ascending") for name in order]),
    )


def _make(folder: Path) -> None:
    """With all folders above it that are missing, each of which is there after a power cut."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@lru_cache(_FOOTERS)
def _groups(path: Path) -> tuple[tuple[int, str, str, int, int, tuple[str, ...]], ...]:
    """(rows, first and last device, first and last time, columns that have anything, without payloads) of each row
    group. Files never change under their names.
    """
    metadata = pq.read_metadata(path)
    names = metadata.schema.names
    device, time = names.index("device"), names.index("time")
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        devices, times = group.column(device).statistics, group.column(time).statistics
        first, last = (_micro(moment) for moment in (times.min, times.max))
        columns = tuple(
            name
            for at, name in enumerate(names)
            if name != "payload" and not _is_empty(group.column(at).statistics, group.num_rows)
        )
        found.append((group.num_rows, devices.min, devices.max, first, last, columns))
    return tuple(found)


def _is_empty(statistics: Any, rows: int) -> bool:
    return statistics is not None and statistics.has_null_count and statistics.null_count == rows


def _micro(moment: Any) -> int:
    return int(pa.scalar(moment, pa.timestamp("us", tz="UTC")).value)


def read_device(
    folder: Path, file: SealedFile, device: str, stream: str | None, start: int | None, end: int | None
) -> tuple[list[Reading], list[DamagedError]]:
    """Readings of a device found between two times, in the order of time; and what of the file is damaged."""
    readings: list[Reading] = []
    damaged: list[DamagedError] = []
    path = folder / file.path
    try:
        groups = _groups(path)
    except (OSError, pa.ArrowException) as error:
        return [], [DamagedError(file.path, (0, file.rows - 1), str(error))]
    begin = 0
    for number, (rows, first, last, earliest, latest, columns) in enumerate(groups):
        begin, row = begin + rows, begin
        if (
            not first <= device <= last
            or (start is not None and latest < start)
            or (end is not None and earliest > end)
        ):
            continue
        try:
            table = _read_group(path, number, columns)
        except (OSError, pa.ArrowException) as error:
            damaged.append(DamagedError(file.path, (row, row + rows - 1), str(error)))
            continue
        chosen = pc.equal(table.column("device"), device)
        times = table.column("time").cast(pa.int64())
        if start is not None:
            chosen = pc.and_(chosen, pc.greater_equal(times, start))
        if end is not None:
            chosen = pc.and_(chosen, pc.less_equal(times, end))
        if file.stream == MIXED and stream is not None:
            chosen = pc.and_(chosen, pc.equal(table.column("stream"), stream))
        readings += readings_of(table.filter(chosen), file.stream)
    return readings, damaged


def keys(folder: Path, file: SealedFile, start: int, end: int) -> Iterator[tuple[str, str, int]]:
    """(device, stream, time) of the readings found between two times. What is damaged is left out."""
    if file.last < start or file.first > end:
        return
    tables, _ = read_sound(folder, file)
    for table in tables:
        times = table.column("time").cast(pa.int64())
        found = table.filter(pc.and_(pc.greater_equal(times, start), pc.less_equal(times, end)))
        streams = found.column("stream").to_pylist() if file.stream == MIXED else [file.stream] * found.num_rows
        yield from zip(
            found.column("device").to_pylist(), streams, found.column("time").cast(pa.int64()).to_pylist(), strict=True
        )


def _read_group(path: Path, number: int, columns: Sequence[str]) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=["device"]) as file:
        return file.read_row_group(number, columns=columns, use_threads=False)


def read_groups(folder: Path, path: str, rows: int, device: str | None = None) -> Iterator[pa.Table]:
    """A file of so many rows, a row group at a time: all of it, or what may have something of a device.

    Raises DamagedError.
    """
    row = 0
    try:
        with pq.ParquetFile(folder / path, page_checksum_verification=True) as opened:
            column = opened.metadata.schema.names.index("device")
            for number in range(opened.num_row_groups):
                group = opened.metadata.row_group(number)
                known = group.column(column).statistics
                if device is None or known is None or known.min <= device <= known.max:
                    yield opened.read_row_group(number, use_threads=False)
                row += group.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(path, (row, min(row + ROW_GROUP, rows) - 1), str(error)) from error


def read_all(folder: Path, file: SealedFile) -> Iterator[pa.Table]:
    """All of a file, a row group at a time, payloads too. Raises DamagedError."""
    return read_groups(folder, file.path, file.rows)


def check(folder: Path, file: SealedFile | RollupFile) -> list[DamagedError]:
    """Everything that is wrong with a file: its checksum first, and then which rows."""
    try:
        if hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256:
            return []
    except OSError as error:
        return [DamagedError(file.path, (0, file.rows - 1), str(error))]
    _, found = read_sound(folder, file)
    return found or [DamagedError(file.path, (0, file.rows - 1), "its checksum is another, though each page reads")]


def read_sound(folder: Path, file: SealedFile | RollupFile) -> tuple[list[pa.Table], list[DamagedError]]:
    """All of a file that reads, and what does not."""
    path = folder / file.path
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        return [], [DamagedError(file.path, (0, file.rows - 1), str(error))]
    tables, damaged, row = [], [], 0
    for number in range(metadata.num_row_groups):
        rows = metadata.row_group(number).num_rows
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as opened:
                tables.append(opened.read_row_group(number, use_threads=False))
        except (OSError, pa.ArrowException) as error:
            damaged.append(DamagedError(file.path, (row, row + rows - 1), str(error)))
        row += rows
    return tables, damaged


def latest(folder: Path, file: SealedFile, limit: int) -> list[Reading]:
    """The readings of a file that were received last, in that order. Raises DamagedError."""
    found = pa.concat_tables(read_all(folder, file))
    newest = found.take(pc.sort_indices(found, [("received", "ascending")])[-limit:])
    return readings_of(newest, file.stream)


def without_device(folder: Path, file: SealedFile, device: str) -> Without | None:
    """Write a file anew without one device; None: it has nothing of it. Raises DamagedError."""
    if not any(first <= device <= last for _, first, last, *_ in _groups(folder / file.path)):
        return None
    readings = [reading for table in read_all(folder, file) for reading in readings_of(table, file.stream)]
    kept = [reading for reading in readings if reading.device != device]
    if len(kept) == len(readings):
        return None
    path = PurePosixPath(file.path)
    written = [write(folder, path.parent, f"{path.stem}-{secrets.token_hex(4)}", kept)] if kept else []
    return Without(written, len(readings) - len(kept))
