"""gzip and zstd around any other format."""

import zlib

from backports import zstd

from ingester.codecs.model import Unpacker
from ingester.decode import DecodeError, Limits

_WINDOW_LOG = 23
"""8 MiB: what a frame may make us set aside before its first byte."""


class _Gzip:
    def unpack(self, payload: bytes, limits: Limits) -> bytes:
        return inflate(payload, limits, "gzip")


class _Zstd:
    def unpack(self, payload: bytes, limits: Limits) -> bytes:
        stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
        try:
            found = stream.decompress(payload, max_length=limits.max_bytes + 1)
        except zstd.ZstdError as error:
            raise DecodeError("compressed", f"not zstd: {error}") from None
        return _whole(found, limits, ended=stream.eof, rest=stream.unused_data, what="zstd")


def inflate(data: bytes, limits: Limits, what: str) -> bytes:
    """What is inside gzip (RFC 1952) or deflate (RFC 1950). Raises DecodeError."""
    stream = zlib.decompressobj(wbits=31 if what == "gzip" else 15)
    try:
        found = stream.decompress(data, limits.max_bytes + 1)
    except zlib.error as error:
        raise DecodeError("compressed", f"not {what}: {error}") from None
    return _whole(found, limits, ended=stream.eof, rest=stream.unused_data, what=what)


def _whole(found: bytes, limits: Limits, *, ended: bool, rest: bytes, what: str) -> bytes:
    if len(found) > limits.max_bytes:
        raise DecodeError("size", f"more than {limits.max_bytes} bytes inside {what}")
    if not ended:
        raise DecodeError("compressed", f"{what} without an end")
    if rest:
        raise DecodeError("compressed", f"{len(rest)} bytes behind the {what} data")
    return found


def make_gzip() -> Unpacker:
    """Build the wrapping of RFC 1952."""
    return _Gzip()


def make_zstd() -> Unpacker:
    """Build the wrapping of RFC 8878."""
    return _Zstd()
