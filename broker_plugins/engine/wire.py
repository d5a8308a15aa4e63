"""Data types of MQTT [1.5] to values and back; every length is checked before it is believed. Pure."""

import struct

from broker_plugins.engine.errors import MalformedPacketError

MAX_VARINT = 268_435_455
_u16 = struct.Struct("!H")
_u32 = struct.Struct("!I")


class Reader:
    """Reads one packet's body from front to back. Raises MalformedPacketError where it does not hold what it says."""

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._position = start
        self._end = len(data) if end is None else end

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self._end - self._position

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        start = self._position
        if count > self._end - start:
            raise MalformedPacketError(f"{what}: {count} bytes announced, {self._end - start} are there")
        self._position = start + count
        return self._data[start : self._position]

    def byte(self, what: str) -> int:
        """One byte."""
        return self.take(1, what)[0]

    def u16(self, what: str) -> int:
        """Two Byte Integer [1.5.2]."""
        found: int = _u16.unpack(self.take(2, what))[0]
        return found

    def u32(self, what: str) -> int:
        """Four Byte Integer [1.5.3]."""
        found: int = _u32.unpack(self.take(4, what))[0]
        return found

    def varint(self, what: str) -> int:
        """Variable Byte Integer [1.5.5]: at most four bytes, in the fewest that do [MQTT-1.5.5-1]."""
        value = 0
        for position in range(4):
            byte = self.byte(what)
            value |= (byte & 0x7F) << (7 * position)
            if not byte & 0x80:
                if position and not byte:
                    raise MalformedPacketError(f"{what}: a variable byte integer longer than needed")
                return value
        raise MalformedPacketError(f"{what}: a variable byte integer of more than four bytes")

    def binary(self, what: str) -> bytes:
        """Binary Data [1.5.6]."""
        return self.take(self.u16(what), what)

    def text(self, what: str) -> str:
        """UTF-8 Encoded String: well-formed [MQTT-1.5.4-1], without U+0000 [MQTT-1.5.4-2]."""
        return to_text(self.binary(what), what)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left, "rest")

    def end(self, what: str) -> None:
        """Raise unless everything was read."""
        if self.left:
            raise MalformedPacketError(f"{what}: {self.left} bytes behind its end")


def to_text(data: bytes, what: str) -> str:
    """Decode a UTF-8 Encoded String. Python refuses surrogates and overlong forms, as the standard asks."""
    try:
        found = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedPacketError(f"{what}: not UTF-8 at byte {error.start}") from None
    if "\0" in found:
        raise MalformedPacketError(f"{what}: holds U+0000")
    return found


def u16(value: int) -> bytes:
    """Two Byte Integer."""
    return _u16.pack(value)


def u32(value: int) -> bytes:
    """Four Byte Integer."""
    return _u32.pack(value)


def varint(value: int) -> bytes:
    """Variable Byte Integer; raises ValueError beyond MAX_VARINT."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} does not fit a variable byte integer")
    encoded = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        if not value:
            encoded.append(low)
            return bytes(encoded)
        encoded.append(low | 0x80)


def binary(value: bytes) -> bytes:
    """Binary Data; raises ValueError beyond 65,535 bytes."""
    if len(value) > 65_535:
        raise ValueError(f"{len(value)} bytes do not fit a field of at most 65535")
    return _u16.pack(len(value)) + value


def text(value: str) -> bytes:
    """UTF-8 Encoded String."""
    return binary(value.encode("utf-8"))
