"""What copies are told by of messages whose journal rows are gone: entries of a device, as bytes. Pure."""

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import partial

ENTRY = struct.Struct("<qqH8s")
"""Received, connection, packet id, digest."""
_WINDOW_US = 15 * 60 * 1_000_000
"""A message that was acknowledged so long before the last one of its device is not sent again: by then TCP has given up
a connection whose other side does not take what it is sent.
"""
_MOST = 65_535

Entry = tuple[int, int, int, bytes]


def pack_entries(entries: Iterable[Entry]) -> bytes:
    """Those that may still be asked for, of entries in the order of receipt."""
    return _recent(b"".join([ENTRY.pack(*entry) for entry in entries]))


def unpack_entries(data: bytes) -> Iterator[Entry]:
    """(received, connection, packet id, digest), the oldest first."""
    return ENTRY.iter_unpack(data)


def merge_entries(before: bytes, after: bytes) -> bytes:
    """Entries of a device of before, and later ones."""
    return _recent(before + after)


def _recent(data: bytes) -> bytes:
    """The end of it that may still be asked for, found without reading the rest: this is done for every device."""
    number = len(data) // ENTRY.size
    first = bisect_left(range(number), _received(data, number - 1) - _WINDOW_US, key=partial(_received, data))
    return data[max(first, number - _MOST) * ENTRY.size :]


def _received(data: bytes, index: int) -> int:
    received: int = ENTRY.unpack_from(data, index * ENTRY.size)[0]
    return received
