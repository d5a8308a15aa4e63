"""Messages to journal rows and back. Pure."""

import sys
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate

from ingester.batch import Batch
from ingester.decode import DecodeError, Limits, Reading, readings
from ingester.store import Row

JournalRow = tuple[int, str, str, int, int, int, bytes | None, bytes | None, bytes]
"""id, device, stream, found_first, found_last, received_last, received, lengths, payloads."""

# What is stored was within the limits of its day; a look at it is not the place to refuse it.
_ANY = Limits(max_bytes=2**31, max_depth=1000)


def pack(batch: Batch, first_id: int) -> Iterator[JournalRow]:
    """One row for each device and stream of a decoded batch, in the order of their first messages."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, key in enumerate(zip(batch.devices, batch.streams, strict=True)):
        if key in groups:
            groups[key].append(index)
        else:
            groups[key] = [index]
    times, ends, received, payloads = batch.times, batch.ends, batch.received, batch.payloads
    for row_id, ((device, stream), members) in enumerate(groups.items(), first_id):
        if len(members) == 1:
            only = members[0]
            yield row_id, device, stream, times[only], ends[only], received[only], None, None, payloads[only]
            continue
        parts = [payloads[index] for index in members]
        arrived = [received[index] for index in members]
        last = max(arrived)
        yield (
            row_id,
            device,
            stream,
            min([times[index] for index in members]),
            max([ends[index] for index in members]),
            last,
            None if min(arrived) == last else _to_bytes(array("q", arrived)),
            _to_bytes(array("I", map(len, parts))),
            b"".join(parts),
        )


def messages(row: JournalRow) -> Iterator[tuple[int, bytes]]:
    """(received, payload) of each message of a row, in the order of arrival."""
    last, received, lengths, payloads = row[5:]
    if lengths is None:
        yield last, payloads
        return
    sizes = _from_bytes("I", lengths)
    arrived: Iterable[int] = [last] * len(sizes) if received is None else _from_bytes("q", received)
    stops = accumulate(sizes)
    for moment, size, stop in zip(arrived, sizes, stops, strict=True):
        yield moment, payloads[stop - size : stop]


def unpack(rows: Iterable[JournalRow], start: int | None, end: int | None) -> list[Row]:
    """Readings of rows that are found between `start` and `end`, in the order of rows and of arrival."""
    return [
        Row(row[1], row[2], reading.time, received, reading.found_at, reading.plausible, reading.fields)
        for row in rows
        for received, payload in messages(row)
        for reading in _readable(payload, received)
        if (start is None or reading.found_at >= start) and (end is None or reading.found_at <= end)
    ]


def _readable(payload: bytes, received: int) -> list[Reading]:
    try:
        return readings(payload, received, _ANY)
    except DecodeError as error:
        raise CorruptRowError(str(error)) from error


class CorruptRowError(ValueError):
    """A stored payload no longer reads: it could when it was stored, so the file was damaged."""


def _to_bytes(column: "array[int]") -> bytes:
    if sys.byteorder == "big":  # pragma: no cover - no such machine in the tests
        column.byteswap()
    return column.tobytes()


def _from_bytes(typecode: str, data: bytes) -> "array[int]":
    column = array(typecode, data)
    if sys.byteorder == "big":  # pragma: no cover - no such machine in the tests
        column.byteswap()
    return column
