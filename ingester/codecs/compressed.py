"""gzip and zstd around any other format; a payload may have several members or frames in a row."""

import zlib
from collections.abc import Callable
from typing import Protocol

from backports import zstd

from ingester.codecs.model import Unpacker
from ingester.decode import DecodeError, Limits

_WINDOW_LOG = 23
"""8 MiB: what a frame may make us set aside before its first byte."""
_MEMBERS = 1000
"""Members of one payload: each costs microseconds, however few bytes it has."""
_CHUNK = 4096
"""Bytes that are fed at once: what is behind a member's end is copied, and not the whole rest for each member."""
_SKIPPABLE, _SKIPPABLE_MASK, _SKIPPABLE_HEADER = 0x184D2A50, 0xFFFFFFF0, 8
"""Frames that a reader passes over [RFC 8878, 3.1.2]."""


class _Stream(Protocol):
    """Reads one member."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    def unpack(self, payload: bytes, limits: Limits) -> bytes:
        return inflate(payload, limits, "gzip")


class _Zstd:
    def unpack(self, payload: bytes, limits: Limits) -> bytes:
        return _members(payload, limits, "zstd", _frame, _skipped)


def inflate(data: bytes, limits: Limits, what: str) -> bytes:
    """Decompress gzip (RFC 1952) or deflate (RFC 1950, or bare as in RFC 1951). Raises DecodeError."""
    if what == "gzip":
        return _members(data, limits, what, lambda: zlib.decompressobj(wbits=31))
    # A zlib header names method 8 and is a multiple of 31 [RFC 1950, 2.2]; what has none is bare.
    wbits = 15 if data[:1] and data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0 else -15
    return _members(data, limits, what, lambda: zlib.decompressobj(wbits=wbits), most=1)


def _frame() -> _Stream:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})


def _skipped(data: bytes, position: int) -> int:
    """Bytes of the skippable frame that begins at `position`, 0 for a frame of another kind."""
    header = data[position : position + _SKIPPABLE_HEADER]
    if len(header) < _SKIPPABLE_HEADER or int.from_bytes(header[:4], "little") & _SKIPPABLE_MASK != _SKIPPABLE:
        return 0
    return _SKIPPABLE_HEADER + int.from_bytes(header[4:], "little")


def _members(
    data: bytes,
    limits: Limits,
    what: str,
    begin: Callable[[], _Stream],
    skipped: Callable[[bytes, int], int] = lambda _data, _position: 0,
    most: int = _MEMBERS,
) -> bytes:
    """Decompress all members; the limit is for all of them together."""
    found = bytearray()
    position = members = 0
    while position < len(data) or not members:
        if members == most:
            rest = f"{len(data) - position} bytes after the {what} data"
            raise DecodeError("compressed", rest if most == 1 else f"more than {most} members of {what}")
        members += 1
        if jump := skipped(data, position):
            position += jump
            if position > len(data):
                raise DecodeError("compressed", f"{what} without an end")
            continue
        position = _member(data, position, begin(), found, limits, what)
    return bytes(found)


def _member(data: bytes, position: int, stream: _Stream, found: bytearray, limits: Limits, what: str) -> int:
    """Decompress the member at `position` into `found`; returns the position of its end."""
    start = position
    while not stream.eof:
        chunk = data[position : position + _CHUNK]
        if not chunk:
            raise DecodeError("compressed", f"{what} without an end")
        try:
            found += stream.decompress(chunk, limits.max_bytes - len(found) + 1)
        except (zlib.error, zstd.ZstdError) as error:
            place = f"{len(data) - start} bytes after the {what} data are" if start else ""
            raise DecodeError("compressed", f"{place} not {what}: {error}".lstrip()) from None
        if len(found) > limits.max_bytes:
            raise DecodeError("size", f"more than {limits.max_bytes} bytes inside {what}")
        position += len(chunk) - len(stream.unused_data)
    return position


def make_gzip() -> Unpacker:
    """Build the wrapping of RFC 1952."""
    return _Gzip()


def make_zstd() -> Unpacker:
    """Build the wrapping of RFC 8878."""
    return _Zstd()
