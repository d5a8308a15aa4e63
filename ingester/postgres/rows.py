"""Readings to what COPY takes, and rows back to readings. Pure."""

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from ingester.decode import is_plausible
from ingester.history.journal import readings_of_rows
from ingester.history.model import Reading
from ingester.history.rules import Rules
from ingester.sqlite.rows import JournalRow, lengths_of, received_of
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
_PLAIN = struct.Struct(">hiqiqiqiiiiiii")
_NO_PAYLOAD = Rules()
_NULL = _LENGTH.pack(-1)
_BLOCK = 500
_MASK = 2**60 - 1

_tiny = re.compile(rb"[eE]-\d{3}|0{300}").search
"""Whether there may be a number that is too near to 0 for a double; PostgreSQL would read no such text."""

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


class Rows:
    """Rows of COPY in its binary format, between HEADER and TRAILER, in blocks. Places count from `place`."""

    def __init__(self, ids: Mapping[Series, int], place: int) -> None:
        self._ids = ids
        self.place = place
        """Of the next row."""

    def of_readings(self, readings: Iterable[Reading]) -> Iterator[bytes]:
        """A row for each reading."""
        block: list[bytes] = []
        for times, rest in _rows(readings, self._ids):
            block += (_COUNT, times, _PLACE.pack(8, self.place), rest)
            self.place += 1
            if len(block) > 4 * _BLOCK:
                yield b"".join(block)
                block = []
        yield b"".join(block)

    def of_journal(self, rows: Iterable[JournalRow], rules: Rules) -> Iterator[bytes]:
        """A row for each reading in journal rows."""
        block: list[bytes] = []
        for row in rows:
            if row[11] is None and not rules.keeps_payload(row[2]):
                self._add_plain(row, block)
            else:
                block += self.of_readings(readings_of_rows([row], rules)[0])
            if len(block) > 3 * _BLOCK:
                yield b"".join(block)
                block = []
        yield b"".join(block)

    def _add_plain(self, row: JournalRow, block: list[bytes]) -> None:
        """Messages of plain JSON. Most are one flat object that begins with its time in milliseconds, or has none: of
        these the text is kept as it came, without what it begins with.
        """
        pack, add = _PLAIN.pack, block.append
        series, place = self._ids[row[1], row[2]], self.place
        lengths, payloads = lengths_of(row), row[8]
        flat = payloads.count(b"{") == len(lengths) and b"[" not in payloads and not _tiny(payloads)
        start = 0
        for received, length in zip(received_of(row), lengths, strict=True):
            payload = payloads[start : start + length]
            start += length
            if flat:
                time = -1
                if payload.startswith(b'{"ts":'):
                    if payload[6:19].isdigit() and payload[19:20] == b",":
                        time = int(payload[6:19]) * 1000
                        payload = b"{" + payload[20:]
                elif b'"ts"' not in payload and b"\\" not in payload:
                    time = received
                if is_plausible(time, received):
                    at, came = time - EPOCH_US, received - EPOCH_US
                    add(pack(9, 8, at, 8, came, 8, place, 4, series, 4, 0, -1, -1, len(payload)))
                    add(payload)
                    add(_NULL)
                    place += 1
                    continue
                payload = payloads[start - length : start]
            self.place = place
            one = (*row[:5], received, None, None, payload, *row[9:])
            block += self.of_readings(readings_of_rows([one], _NO_PAYLOAD)[0])
            place = self.place
        self.place = place


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
