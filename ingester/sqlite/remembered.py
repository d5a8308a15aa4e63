"""What copies are told by of messages whose journal rows are gone: entries of a device, as bytes. Pure."""

import struct
from collections.abc import Iterator, Sequence
from itertools import chain

ENTRY = struct.Struct("<qqH8s")
"""Received, connection, packet id, digest."""
_WINDOW_US = 15 * 60 * 1_000_000
"""A message that was acknowledged so long before the last one of its device is not sent again: by then TCP has given up
a connection whose other side does not take what it is sent.
"""
_MOST = 65_535

Entry = tuple[int, int, int, bytes]


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """Those that may still be asked for, of entries in the order of receipt."""
    since = max(received for received, *_ in entries) - _WINDOW_US
    recent = [entry for entry in entries if entry[0] >= since][-_MOST:]
    return b"".join(ENTRY.pack(*entry) for entry in recent)


def unpack_entries(data: bytes) -> Iterator[Entry]:
    """(received, connection, packet id, digest), the oldest first."""
    return ENTRY.iter_unpack(data)


def merge_entries(before: bytes, after: bytes) -> bytes:
    """Entries of a device of before, and later ones."""
    return pack_entries(list(chain(unpack_entries(before), unpack_entries(after))))
