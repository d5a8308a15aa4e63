"""The telemetry lane: all PUBLISH packets of one socket read in one pass, without an object or a task for a message.

Every packet it does not take is handed to the connection whole: other packets, topics not known yet, anything with a
property, a flag or an error in it.
"""

import asyncio
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from broker_plugins.engine import acks, publishing
from broker_plugins.engine.errors import PacketTooLargeError
from broker_plugins.engine.message import Message
from broker_plugins.engine.packets import V5, frame
from broker_plugins.engine.routes import Route
from ingester.batch import NO_PACKET_ID, Run

if TYPE_CHECKING:
    from broker_plugins.engine.connection import Connection

_QOS_0 = 0x30
_QOS_1 = 0x32
_SHED = "intake_full"
_TURN_SECONDS = 0.01
"""How long a connection's packets may take that are not for the lane, before it is others' turn."""


def take(connection: "Connection", data: bytes) -> int:  # noqa: C901, PLR0912, PLR0915 - one pass: calls are what costs
    """Take the packets in `data`, in order. Returns where the first one begins that is incomplete, or has to wait.

    Raises ProtocolError; what came before it is taken.
    """
    engine, routes, size = connection.engine, connection.routes, len(data)
    five = connection.version == V5
    fast = _is_fast(connection, size)
    short = min(engine.limits.packet_bytes, 16_384) - 128
    position = messages = 0
    until = 0.0
    route: Route | None = None
    topic = b""
    payloads: list[bytes] = []
    packet_ids: list[bytes] = []
    try:
        while position + 1 < size:
            first = data[position]
            start = position + 2
            end = start + data[position + 1]
            if end - start > 127:  # a remaining length of more than one byte; of two, for most messages
                if start < size and 0 < data[start] < 128 and data[start] << 7 <= short:
                    end += 1 - 128 + (data[start] << 7)
                    start += 1
                else:
                    found = _frame(connection, data, position)
                    if found is None:
                        break
                    _, start, end = found
            if end > size:
                break
            if fast and (first == _QOS_1 or first == _QOS_0) and end - start > 4:  # noqa: PLR1714, SIM109 - quicker so
                at = start + 2 + (data[start] << 8 | data[start + 1])
                name = data[start + 2 : at]
                if name != topic:
                    if payloads:
                        _book(connection, route, payloads, packet_ids)
                        payloads, packet_ids = [], []
                    route, topic = routes.get(name), name
                if route is not None:
                    packet_id = NO_PACKET_ID
                    if first == _QOS_1:
                        packet_id = data[at : at + 2]
                        at += 2
                    if five:  # properties are not for the lane; this is their length
                        at = at + 1 if at < end and not data[at] else size + 1
                    if at <= end and (first == _QOS_0 or packet_id != NO_PACKET_ID):
                        payloads.append(data[at:end])
                        packet_ids.append(packet_id)
                        position = end
                        messages += 1
                        continue
            if payloads:
                _book(connection, route, payloads, packet_ids)
                payloads, packet_ids = [], []
            if not connection.take_packet(first, data[start:end]):
                break
            position = end
            messages += first >> 4 == 3
            if connection.blocked or connection.ended:
                break
            if not until:
                until = monotonic() + _TURN_SECONDS
            elif monotonic() > until:
                connection.suspend(asyncio.sleep(0))  # it is others' turn
                break
            route, topic = None, b""  # the packet may have changed what is known of topics
            routes = connection.routes
            fast = _is_fast(connection, size - position)
    finally:
        if payloads:
            _book(connection, route, payloads, packet_ids)
        if messages:
            connection.messages_in += messages
            if engine.limits.device_rate:
                connection.throttle(messages)
    return position


def _is_fast(connection: "Connection", size: int) -> bool:
    """Whether what is in so many bytes needs no look at each message."""
    return not (connection.traced or connection.engine.observed or connection.history is not None) and (
        connection.meter is None or connection.meter.room(size)
    )


def _frame(connection: "Connection", data: bytes, position: int) -> tuple[int, int, int] | None:
    try:
        return frame(data, position, connection.engine.limits.packet_bytes)
    except PacketTooLargeError as error:
        publishing.unreadable(connection, data[position], error.why)
        raise


def _book(connection: "Connection", route: Route | None, payloads: list[bytes], packet_ids: list[bytes]) -> None:
    """Count a run of messages of one route, and put it into the open batch."""
    if route is None:
        return
    engine, count = connection.engine, len(payloads)
    intake, now = engine.intake, engine.clock()
    without_id = packet_ids.count(NO_PACKET_ID)
    engine.ledger.received_run(route.account, without_id, count - without_id, sum(map(len, payloads)), now)
    if without_id and intake.sheds:
        engine.ledger.dropped(route.device, _SHED, without_id)
        kept = [index for index, packet_id in enumerate(packet_ids) if packet_id != NO_PACKET_ID]
        payloads = [payloads[index] for index in kept]
        packet_ids = [packet_ids[index] for index in kept]
        count, without_id = len(payloads), 0
        if not count:
            return
    batch = intake.batch
    if route.decoder is not None:
        batch.runs.append(Run(len(batch), len(batch) + count, route.decoder))
    batch.devices += [route.device] * count
    batch.streams += [route.stream] * count
    batch.received += [now] * count
    batch.payloads += payloads
    batch.connections += [connection.number] * count
    batch.packet_ids += packet_ids
    if route.generation != engine.sessions.router.generation:
        route.generation = engine.sessions.router.generation
        route.wanted = engine.sessions.router.wanted(route.topic)
    before = engine.store.changes
    if route.wanted:
        sender = connection.client_id
        for payload, packet_id in zip(payloads, packet_ids, strict=True):
            engine.publish(Message(route.topic, payload, int(packet_id != NO_PACKET_ID), sender=sender))
    if without_id != count:
        numbers = packet_ids if not without_id else [number for number in packet_ids if number != NO_PACKET_ID]
        slot = acks.reserve(connection)
        ready = partial(acks.pubacks, connection, slot, numbers)
        # What subscribers with a session are to get has to be on disk as well.
        batch.acks.append(partial(engine.store.when_written, ready, before) if route.wanted else ready)
    intake.added()
