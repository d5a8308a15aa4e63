"""Silence that lasts too long: no CONNECT, no packet within 1.5 times the keep-alive, a packet without an end."""

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.wheel import ticks

if TYPE_CHECKING:
    from broker_plugins.engine.connection import Connection


def for_connect(connection: "Connection") -> None:
    """Close the connection unless it is let in, in time."""
    connection.engine.wheel.add(_Look(connection, _connect), ticks(connection.engine.limits.connect_seconds))


def for_silence(connection: "Connection") -> None:
    """From now on look after its keep-alive, and its unfinished packets."""
    wheel = connection.engine.wheel
    wheel.add(_Look(connection, _silence), _until_next(connection, wheel.now))


class _Look:
    """Timed: a look at a connection, which is not kept alive for it."""

    __slots__ = ("_connection", "_look")

    def __init__(self, connection: "Connection", look: "Callable[[Connection, int], int]") -> None:
        self._connection = weakref.ref(connection)
        self._look = look

    def tick(self, now: int) -> int:
        """See Timed."""
        connection = self._connection()
        return 0 if connection is None or connection.ended else self._look(connection, now)


def _connect(connection: "Connection", _now: int) -> int:
    if not connection.let_in:
        seconds = connection.engine.limits.connect_seconds
        connection.close(Reason.UNSPECIFIED_ERROR, f"not connected in {seconds:g} s", why="timeout")
    return 0


def _silence(connection: "Connection", now: int) -> int:
    limits = connection.engine.limits
    if connection.held_by_us:
        connection.last_packet = connection.rest_since = now
    if connection.keep_alive_ticks and now - connection.last_packet >= connection.keep_alive_ticks:
        # [MQTT-3.1.2-22]
        connection.close(Reason.KEEP_ALIVE_TIMEOUT, "nothing came within 1.5 times the keep-alive", why="keep_alive")
        return 0
    if connection.unfinished and now - connection.rest_since >= ticks(limits.packet_seconds):
        connection.close(Reason.UNSPECIFIED_ERROR, "a packet did not end in time", why="packet_timeout")
        return 0
    return _until_next(connection, now)


def _until_next(connection: "Connection", now: int) -> int:
    """Ticks until a packet may have been unfinished for too long, or the keep-alive be over."""
    soon = ticks(connection.engine.limits.packet_seconds)
    if connection.unfinished:
        soon -= now - connection.rest_since
    if connection.keep_alive_ticks:
        soon = min(soon, connection.keep_alive_ticks - (now - connection.last_packet))
    return max(1, soon)
