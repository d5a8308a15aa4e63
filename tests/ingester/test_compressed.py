"""gzip and zstd: several members are one payload, and the limit is one for all of them."""

import gzip
import zlib

import pytest
from backports import zstd

from ingester.codecs import UNPACKERS
from ingester.codecs.compressed import inflate
from ingester.decode import DecodeError, Limits

LIMITS = Limits(max_bytes=10_000)
PACK = {"gzip": gzip.compress, "zstd": zstd.compress}
SKIPPABLE = b"\x5a\x2a\x4d\x18\x05\0\0\0hello"


def raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("name", PACK)
def test_members_one_behind_the_other_are_one_payload(name):
    """As RFC 1952 and RFC 8878 have it: what a device appends to what it has compressed already."""
    unpack, pack = UNPACKERS[name]().unpack, PACK[name]
    assert unpack(pack(b'[{"v":1}') + pack(b',{"v":2}]'), LIMITS) == b'[{"v":1},{"v":2}]'
    assert unpack(pack(b"") + pack(b"x" * 9000) + pack(b"") + pack(b"y" * 1000), LIMITS) == b"x" * 9000 + b"y" * 1000
    assert unpack(pack(b"") * 1000, LIMITS) == b""


@pytest.mark.parametrize("name", PACK)
def test_what_is_no_whole_member_is_refused(name):
    """A member without an end, anything behind the last one, too many of them, and more inside than is allowed."""
    unpack, pack = UNPACKERS[name]().unpack, PACK[name]
    one = pack(b"x" * 500)
    for payload, reason in (
        (one + one[:-1], "compressed"), (one + one[:5], "compressed"), (one + b"\0", "compressed"),
        (one + b"plain text behind it", "compressed"), (pack(b"") * 1001, "compressed"),
        (pack(b"\0" * 9000) * 2, "size"), (one + pack(b"\0" * 10_000_000), "size"), (b"", "compressed"),
    ):  # fmt: skip
        with pytest.raises(DecodeError) as caught:
            unpack(payload, LIMITS)
        assert caught.value.reason == reason, payload[:20]


def test_skippable_frames_are_passed_over():
    """zstd lets others put their own data between frames."""
    unpack = UNPACKERS["zstd"]().unpack
    assert unpack(SKIPPABLE + zstd.compress(b"a") + SKIPPABLE + zstd.compress(b"b") + SKIPPABLE, LIMITS) == b"ab"
    assert unpack(SKIPPABLE, LIMITS) == b""
    for payload in (SKIPPABLE[:-1], zstd.compress(b"a") + SKIPPABLE[:-1], SKIPPABLE + b"x"):
        with pytest.raises(DecodeError):
            unpack(payload, LIMITS)


def test_deflate_with_a_header_and_without_one():
    """The word means both; a header is told by its check."""
    for payload in (zlib.compress(b"abc"), raw(b"abc")):
        assert inflate(payload, LIMITS, "deflate") == b"abc"
    for payload in (b"", b"\xff", zlib.compress(b"abc") * 2, raw(b"abc") + b"x", zlib.compress(b"abc")[:-1]):
        with pytest.raises(DecodeError) as caught:
            inflate(payload, LIMITS, "deflate")
        assert caught.value.reason == "compressed"
