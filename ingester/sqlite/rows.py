"""Messages to journal rows and back. Pure."""

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, compress, count, pairwise, repeat, starmap
from operator import ne
from typing import Any, TypeVar

from ingester.batch import NO_PACKET_ID, Batch, copy_digest
from ingester.decode import DecodeError, Reading, stored_readings
from ingester.store import Row

T = TypeVar("T")

JournalRow = tuple[
    int, str, str, int, int, int, bytes | None, bytes | None, bytes, int | None, bytes | None, bytes | None,
    bytes | None,
]  # fmt: skip
"""id, device, stream, found_first, found_last, received_last, received, lengths, payloads, connection, packet_ids,
decoded, decoded_lengths."""

PLAIN_COLUMNS = (
    "id, device, stream, found_first, found_last, received_last, received, lengths, payloads, connection, packet_ids"
)
"""What is written of plain JSON: two values less of each row are noticed at the rates of a fleet."""
COLUMNS = f"{PLAIN_COLUMNS}, decoded, decoded_lengths"

_PLAIN = (None, None)


def pack(batch: Batch, first_id: int) -> Iterator[tuple[Any, ...]]:
    """One row for each device, stream and connection of a decoded batch, in the order of their first messages: the
    values of COLUMNS, or of PLAIN_COLUMNS where all of the batch is plain JSON.
    """
    times, ends, received, payloads = batch.times, batch.ends, batch.received, batch.payloads
    for row_id, ((device, stream, number), runs) in enumerate(_runs(batch).items(), first_id):
        connection = number or None
        if len(runs) == 1 and runs[0].stop - runs[0].start == 1:
            only = runs[0].start
            found = times[only], ends[only], received[only]
            packet_ids = batch.packet_ids[only] if number else None
            readings = _joined([batch.decoded[only]]) if batch.decoded else ()
            yield row_id, device, stream, *found, None, None, payloads[only], connection, packet_ids, *readings
            continue
        parts, arrived = _column(payloads, runs), _column(received, runs)
        numbers: list[bytes] = _column(batch.packet_ids, runs) if number else []
        last = max(arrived)
        yield (
            row_id,
            device,
            stream,
            min(_column(times, runs)),
            max(_column(ends, runs)),
            last,
            None if min(arrived) == last else _to_bytes(array("q", arrived)),
            _to_bytes(array("I", map(len, parts))),
            b"".join(parts),
            connection,
            b"".join(numbers) if number else None,
            *(_joined(_column(batch.decoded, runs)) if batch.decoded else ()),
        )


def _joined(decoded: list[bytes | None]) -> tuple[bytes | None, bytes | None]:
    """Readings of a row's messages, and the length of each."""
    if not any(decoded):
        return _PLAIN
    parts = [entry or b"" for entry in decoded]
    return b"".join(parts), _to_bytes(array("I", map(len, parts)))


def _runs(batch: Batch) -> dict[tuple[str, str, int], list[slice]]:
    """Where the messages of each sender are. They come in runs: what is done once a run costs nothing a message."""
    keys = list(zip(batch.devices, batch.streams, batch.connections or [0] * len(batch), strict=True))
    runs: dict[tuple[str, str, int], list[slice]] = {}
    starts: list[int] = [0, *compress(count(1), map(ne, keys, keys[1:]))] if keys else []
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=False):
        runs.setdefault(keys[start], []).append(slice(start, stop))
    return runs


def _column(values: list[T], runs: list[slice]) -> list[T]:
    if len(runs) == 1:
        return values[runs[0]]
    return list(chain.from_iterable(values[run] for run in runs))


def messages(row: JournalRow) -> Iterator[tuple[int, bytes, bytes | None]]:
    """(received, payload, readings) of each message of a row, in the order of arrival; None for plain JSON."""
    last, received, lengths, payloads = row[5:9]
    if lengths is None:
        yield last, payloads, row[11]
        return
    sizes = _from_bytes("I", lengths)
    arrived: Iterable[int] = [last] * len(sizes) if received is None else _from_bytes("q", received)
    decoded: Iterable[bytes | None] = repeat(None)
    if row[11] is not None and row[12] is not None:
        decoded = (part or None for part in _parts(row[11], _from_bytes("I", row[12])))
    yield from zip(arrived, _parts(payloads, sizes), decoded, strict=False)


def received_of(row: JournalRow) -> Sequence[int]:
    """When each message of a row was received."""
    return [row[5]] * len(lengths_of(row)) if row[6] is None else _from_bytes("q", row[6])


def lengths_of(row: JournalRow) -> Sequence[int]:
    """How long the payload of each message of a row is."""
    return [len(row[8])] if row[7] is None else _from_bytes("I", row[7])


def count_of(row: JournalRow) -> int:
    """How many messages a row has."""
    return 1 if row[7] is None else max(1, len(row[7]) // 4)


def select_messages(row: JournalRow, indexes: Sequence[int]) -> JournalRow:
    """The row with only these of its messages, at least one; its range of times may be wider than theirs."""
    wanted = set(indexes)
    found = [message for at, message in enumerate(messages(row)) if at in wanted]
    arrived, payloads, decoded = zip(*found, strict=True)
    numbers = None if row[10] is None else b"".join(row[10][2 * at : 2 * at + 2] for at in indexes)
    lengths = _to_bytes(array("I", map(len, payloads)))
    received = _to_bytes(array("q", arrived))
    last, joined = max(arrived), _joined(list(decoded))
    return (*row[:5], last, received, lengths, b"".join(payloads), row[9], numbers, *joined)


def _parts(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    stops = accumulate(sizes, initial=0)
    return starmap(lambda start, stop: data[start:stop], pairwise(stops))


def last_by_packet_id(
    rows: Iterable[JournalRow], connection: int, earlier: Iterable[tuple[int, int, bytes]] = ()
) -> dict[bytes, bytes]:
    """From rows of one device, the newest first: packet id -> digest of the last message with it, where that came by
    another connection than `connection`. `earlier` are (connection, packet id, digest) of before, the oldest first.
    """
    last: dict[bytes, bytes | None] = {}
    for row in rows:
        stream, came_by, packet_ids = row[2], row[9], row[10]
        if packet_ids is None:
            continue
        payloads = [payload for _, payload, _ in messages(row)]
        for index in range(len(payloads) - 1, -1, -1):
            packet_id = packet_ids[2 * index : 2 * index + 2]
            if packet_id not in last:
                last[packet_id] = None if came_by == connection else copy_digest(stream, payloads[index])
    for came_by, number, digest in reversed(list(earlier)):
        last.setdefault(number.to_bytes(2), None if came_by == connection else digest)
    return {packet_id: found for packet_id, found in last.items() if found and packet_id != NO_PACKET_ID}


def unpack(rows: Iterable[JournalRow], start: int | None, end: int | None) -> list[Row]:
    """Readings of rows that are found between `start` and `end`, in the order of rows and of arrival."""
    return [
        Row(row[1], row[2], reading.time, received, reading.found_at, reading.plausible, reading.fields, reading.marks)
        for row in rows
        for received, payload, kept in messages(row)
        for reading in readable(payload, received, kept)
        if (start is None or reading.found_at >= start) and (end is None or reading.found_at <= end)
    ]


def readable(payload: bytes, received: int, kept: bytes | None) -> list[Reading]:
    """Readings of a stored message. Raises CorruptRowError."""
    try:
        return stored_readings(payload, received, kept)
    except (DecodeError, ValueError, TypeError) as error:
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
