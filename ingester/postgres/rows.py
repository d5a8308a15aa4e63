"""Readings to what COPY takes, and rows back to readings. Pure."""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from ingester.history.model import Reading
from ingester.store import Row

EPOCH_US = 946_684_800_000_000
"""2000-01-01, where PostgreSQL's times begin."""
COLUMNS = ("time", "received", "place", "series", "position", "device_time", "marks", "fields", "payload")
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
_COUNT = struct.pack(">h", len(COLUMNS))
_PLACE = struct.Struct(">iq")
_TIMES = struct.Struct(">iqiq")
_SERIES = struct.Struct(">iiii")
_LENGTH = struct.Struct(">i")
_TIME = struct.Struct(">iq")
_NULL = _LENGTH.pack(-1)
_BLOCK = 500
_MASK = 2**60 - 1

Series = tuple[str, str]
"""Device and stream."""

# The digest of a row, as `digests` reckons it: every value but `place` as COPY has it, its length before it.
_SEND = {
    "time": "timestamptz_send(time)", "received": "timestamptz_send(received)", "series": "int4send(series)",
    "position": "int4send(position)", "device_time": "timestamptz_send(device_time)", "marks": "textsend(marks)",
    "fields": "json_send(fields)", "payload": "byteasend(payload)",
}  # fmt: skip
_PARTS = " || ".join(rf"coalesce(int4send(octet_length({sent})) || {sent}, '\xffffffff')" for sent in _SEND.values())
DIGEST = f"sum(('x' || left(md5({_PARTS}), 15))::bit(60)::bigint)"
"""SQL of the sum of the digests of rows."""


def key_of(series: Series) -> bytes:
    """What a series is told by in the database."""
    device, stream = series
    return hashlib.sha256(f"{device}\0{stream}".encode(errors="surrogatepass")).digest()


def storable(text: str) -> str:
    """A text as PostgreSQL can have it: without U+0000, and without halves of characters."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def encode(readings: Iterable[Reading], ids: Mapping[Series, int], place: int) -> Iterator[bytes]:
    """Rows of COPY in its binary format, in blocks; HEADER comes before all, TRAILER behind. Places count from here."""
    block: list[bytes] = [HEADER]
    for number, (times, rest) in enumerate(_rows(readings, ids), place):
        block += (_COUNT, times, _PLACE.pack(8, number), rest)
        if len(block) > 4 * _BLOCK:
            yield b"".join(block)
            block = []
    block.append(TRAILER)
    yield b"".join(block)


def digests(readings: Iterable[Reading], ids: Mapping[Series, int]) -> int:
    """The sum of a digest of each row; see DIGEST."""
    return sum(
        int.from_bytes(hashlib.md5(times + rest, usedforsecurity=False).digest()[:8]) >> 4 & _MASK
        for times, rest in _rows(readings, ids)
    )


def _rows(readings: Iterable[Reading], ids: Mapping[Series, int]) -> Iterator[tuple[bytes, bytes]]:
    """The values of each row, before and behind its place."""
    dumps, times, series, length = orjson.dumps, _TIMES.pack, _SERIES.pack, _LENGTH.pack
    for one in readings:
        fields = dumps(one.fields)
        rest = [series(4, ids[one.device, one.stream], 4, one.position)]
        rest.append(_NULL if one.device_time is None else _TIME.pack(8, one.device_time - EPOCH_US))
        if one.marks:
            marks = storable(",".join(one.marks)).encode()
            rest += (length(len(marks)), marks)
        else:
            rest.append(_NULL)
        rest += (length(len(fields)), fields)
        if one.payload is None:
            rest.append(_NULL)
        else:
            rest += (length(len(one.payload)), one.payload)
        yield times(8, one.time - EPOCH_US, 8, one.received - EPOCH_US), b"".join(rest)


def row_of(found: Sequence[Any]) -> Row:
    """(device, stream, time, received, device_time, marks, fields) as a query gives it."""
    device, stream, time, received, device_time, marks, fields = found
    return Row(
        device,
        stream,
        time if device_time is None else device_time,
        received,
        time,
        device_time is None,
        orjson.loads(fields),
        tuple(marks.split(",")) if marks else (),
    )
