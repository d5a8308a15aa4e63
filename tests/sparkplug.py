"""Sparkplug's payloads, encoded by the numbers of sparkplug_b.proto and of nothing in the program, and an edge node."""

import struct
import time

import aiomqtt

KINDS = {
    "int_value": 10, "long_value": 11, "float_value": 12, "double_value": 13, "boolean_value": 14, "string_value": 15,
    "bytes_value": 16, "dataset_value": 17, "template_value": 18, "extension_value": 19,
}  # fmt: skip


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def field(number: int, value: object) -> bytes:
    """One field: integers as they are, floats as 64 bits, `Single` as 32, text and bytes with their length."""
    if isinstance(value, Single):
        return varint(number << 3 | 5) + struct.pack("<f", value.number)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else bytes(value)
    return varint(number << 3 | 2) + varint(len(data)) + data


class Single:
    """A float of 32 bits."""

    def __init__(self, number: float) -> None:
        self.number = number


def value_fields(given: dict, first: int) -> bytes:
    """The oneof: its members stand in one order, from another number on in each message."""
    found = b""
    for kind, number in KINDS.items():
        if kind in given:
            value = given[kind]
            found += field(number - 10 + first, Single(value) if kind == "float_value" else value)
    return found


def metric(**given) -> bytes:
    """One metric: name, alias, timestamp, datatype, is_historical, is_null, unit, and a member of KINDS."""
    numbers = {
        "name": 1,
        "alias": 2,
        "timestamp": 3,
        "datatype": 4,
        "is_historical": 5,
        "is_transient": 6,
        "is_null": 7,
    }
    found = b"".join(field(number, given[name]) for name, number in numbers.items() if name in given)
    if "unit" in given:
        found += field(9, field(1, "engUnit") + field(2, field(1, 12) + field(8, given["unit"])))
    return found + value_fields(given, 10)


def payload(*metrics: dict | bytes, seq: int | None = 0, timestamp: int | None = 1_795_391_000_000, **more) -> bytes:
    """A message; metrics as keywords of `metric`, or encoded."""
    found = b"" if timestamp is None else field(1, timestamp)
    found += b"".join(field(2, one if isinstance(one, bytes) else metric(**one)) for one in metrics)
    found += b"" if seq is None else field(3, seq)
    return found + b"".join(field({"uuid": 4, "body": 5}[name], value) for name, value in more.items())


def template(*members: dict, reference: str = "", parameters: tuple[dict, ...] = (), definition: bool = False) -> bytes:
    """A template; parameters with name, type and a member of KINDS."""
    found = b"".join(field(2, metric(**one)) for one in members)
    for one in parameters:
        found += field(
            3, field(1, one["name"]) + (field(2, one["type"]) if "type" in one else b"") + value_fields(one, 3)
        )
    return found + (field(4, reference) if reference else b"") + field(5, int(definition))


def data_set(columns: list[str], types: list[int], *rows: list[dict]) -> bytes:
    """A data set; cells as members of KINDS."""
    found = field(1, len(columns)) + b"".join(field(2, name) for name in columns)
    found += b"".join(field(3, kind) for kind in types)
    return found + b"".join(field(4, b"".join(field(1, value_fields(cell, 1)) for cell in row)) for row in rows)


class Node:
    """An edge node with one device, `pump`: both have a temperature, of two types, under the alias 1."""

    def __init__(self, client: aiomqtt.Client, name: str) -> None:
        self._client = client
        self._name = name
        self._sequence = 0
        self.births = 0

    async def birth(self) -> None:
        self._sequence = 0
        rebirth = {"name": "Node Control/Rebirth", "datatype": 11, "boolean_value": False}
        await self._send("NBIRTH", {"name": "bdSeq", "datatype": 8, "long_value": 0}, rebirth, self._temperature(3))
        await self._send("DBIRTH", self._temperature(7))
        self.births += 1

    async def data(self, number: int) -> None:
        """Both temperatures, by alias, in 32 bits."""
        for kind in ("NDATA", "DDATA"):
            await self._send(kind, {"alias": 1, "int_value": number % 2**32})

    async def obey(self) -> None:
        """Be born again whenever a host asks for it."""
        await self._client.subscribe(f"spBv1.0/plant/NCMD/{self._name}", qos=0)
        async for message in self._client.messages:
            assert field(1, "Node Control/Rebirth") in message.payload
            assert field(4, 11) + field(14, 1) in message.payload
            await self.birth()

    def _temperature(self, datatype: int) -> dict:
        return {"name": "temperature", "alias": 1, "datatype": datatype, "int_value": 0}

    async def _send(self, kind: str, *metrics: dict) -> None:
        topic = f"spBv1.0/plant/{kind}/{self._name}" + ("/pump" if kind.startswith("D") else "")
        now = time.time_ns() // 1_000_000
        data = payload(*(metric(timestamp=now, **one) for one in metrics), seq=self._sequence % 256, timestamp=now)
        self._sequence += 1
        await self._client.publish(topic, data, qos=1)
