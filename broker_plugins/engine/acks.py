"""Acknowledgements leave in the order in which their messages came [MQTT-4.6.0-2] [MQTT-4.6.0-3], when each is due."""

from collections import deque
from typing import TYPE_CHECKING

from broker_plugins.engine.packets import Ack, Kind

if TYPE_CHECKING:
    from broker_plugins.engine.connection import Connection

Slot = list[bytes | None]
"""One place in a connection's order; holds bytes once they may leave."""

_PUBACK = b"\x40\x02"


def reserve(connection: "Connection") -> Slot:
    """Take the next place in the order."""
    slot: Slot = [None]
    if connection.acks is None:
        connection.acks = deque()
    connection.acks.append(slot)
    return slot


def pubacks(connection: "Connection", slot: Slot, packet_ids: list[bytes]) -> None:
    """The messages with these packet ids are on disk: PUBACK for all of them, in one piece."""
    _resolve(connection, slot, _PUBACK + _PUBACK.join(packet_ids))
    if connection.traced or connection.engine.observed:
        for packet_id in packet_ids:
            connection.engine.saw(connection, "out", Ack(Kind.PUBACK, int.from_bytes(packet_id)))


def acknowledge(connection: "Connection", slot: Slot, packet: Ack) -> None:
    """One message is where it has to be, or refused: its PUBACK or PUBREC."""
    # CONNACK is larger than any of these: who took that takes this, without its explanation.
    _resolve(connection, slot, connection.encoded(packet) or b"")
    if connection.traced or connection.engine.observed:
        connection.engine.saw(connection, "out", packet)


def _resolve(connection: "Connection", slot: Slot, data: bytes) -> None:
    slot[0] = data
    waiting = connection.acks
    while waiting and (ready := waiting[0][0]) is not None:
        waiting.popleft()
        if not connection.ended:
            connection.send(ready)
