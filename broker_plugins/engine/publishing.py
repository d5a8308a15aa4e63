"""A PUBLISH of a client, one at a time: whatever the lane does not take."""

from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from broker_plugins.engine import acks
from broker_plugins.engine.errors import ProtocolError
from broker_plugins.engine.hooks import Candidate
from broker_plugins.engine.message import FORWARDED, Delivery, Message
from broker_plugins.engine.packets import V5, Ack, Kind, Publish
from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.routes import Route
from broker_plugins.engine.topics import check_levels, expires_at
from fleet.policy.rights import matches
from fleet.topics import is_servers
from ingester.batch import copy_digest
from ingester.streams import Destination

if TYPE_CHECKING:
    from broker_plugins.engine.connection import Connection
    from broker_plugins.engine.engine import Deliveries

_ANSWERED = ("correlation_data", "user_property")
"""Properties of a request that its answer has too."""
_QUOTA = "quota"
_ROUTES = 1000
"""Topics that are remembered of one connection."""


def take(connection: "Connection", packet: Publish) -> bool:
    """Take one message. False when it has to be read again: what it may be a copy of is being looked up.

    Raises ProtocolError.
    """
    engine = connection.engine
    if "subscription_identifier" in packet.properties:
        raise ProtocolError("a subscription identifier from a client")  # [MQTT-3.3.4-6]
    _resolve_alias(connection, packet)
    check_levels(packet.topic, engine.limits.levels)
    telemetry = _destination(connection, packet)
    exceeded = connection.meter.judge(len(packet.payload)) if connection.meter is not None else None
    if exceeded is not None and exceeded.pause:
        connection.pause(exceeded.pause)
        return False
    if exceeded is not None:
        _reject(connection, packet, exceeded.detail)
        return True
    if telemetry is not None and packet.dup and not _looked_up(connection, telemetry.device):
        connection.suspend(_look_up(connection, telemetry.device))
        return False
    if connection.traced or engine.observed:
        engine.saw(connection, "in", packet)
    principal = connection.admitted
    rights = principal.rights
    allowed = rights.may_publish(packet.topic) and not is_servers(packet.topic)
    allowed = allowed and (not packet.retain or rights.may_retain(packet.topic))
    if engine.hooks.checks_topics or engine.observed:
        connection.suspend(_take_asking(connection, packet, telemetry, allowed=allowed))
    elif (serving := _take(connection, packet, telemetry, allowed=allowed)) is not None:
        connection.suspend(serving)
    return True


def _destination(connection: "Connection", packet: Publish) -> Destination | None:
    """What a message is telemetry of: as its topic says, and as its sender says of its format. A message that clears a
    retained one [MQTT-3.3.1-6] is telemetry only where an empty payload is a value.
    """
    streams = connection.engine.streams
    found = streams.route(packet.topic, connection.admitted.device)
    content_type = packet.properties.get("content_type")
    if found is not None and content_type:
        found = streams.chosen(found, packet.topic, content_type)
    if found is not None and packet.retain and not packet.payload and not found.takes_empty(connection.engine.clock()):
        return None
    return found


def _reject(connection: "Connection", packet: Publish, detail: str) -> None:
    """A message beyond its sender's quota: acknowledged, and told where the client understands it."""
    engine, name = connection.engine, connection.admitted.name
    engine.ledger.received(name, packet.qos, len(packet.payload), engine.clock())
    engine.ledger.rejected(name, _QUOTA)
    engine.hooks.refused("publish", name, _QUOTA, detail, packet.topic, str(connection.peer))
    if packet.qos:
        why = connection.explained(detail)
        answer = Ack(_answer(packet), packet.packet_id, Reason.QUOTA_EXCEEDED, why)
        acks.acknowledge(connection, acks.reserve(connection), answer)


def unreadable(connection: "Connection", first: int, why: str) -> None:
    """A packet came that can't be read: when it is a PUBLISH, it is accounted for as rejected."""
    principal, ledger = connection.principal, connection.engine.ledger
    if principal is not None and first >> 4 == Kind.PUBLISH:
        ledger.received(principal.name, min(2, (first >> 1) & 3), 0, connection.engine.clock())
        ledger.rejected(principal.name, why)


def _resolve_alias(connection: "Connection", packet: Publish) -> None:
    alias = packet.properties.pop("topic_alias", None)
    if alias is None:
        return
    if alias > connection.engine.limits.topic_aliases:
        raise ProtocolError(f"topic alias {alias}", Reason.TOPIC_ALIAS_INVALID)  # [MQTT-3.3.2-9]
    if connection.aliases_in is None:
        connection.aliases_in = {}
    if packet.topic:
        connection.aliases_in[alias] = packet.topic
    elif alias in connection.aliases_in:
        packet.topic = connection.aliases_in[alias]
    else:
        raise ProtocolError(f"topic alias {alias} was never set", Reason.PROTOCOL_ERROR)  # [3.3.2.3.4]


def _looked_up(connection: "Connection", device: str) -> bool:
    return connection.history is not None and connection.history_of == device


async def _look_up(connection: "Connection", device: str) -> None:
    """Find the messages that a copy may be one of: those of earlier connections, the last of each packet id.

    What is still on its way to the disk is waited for.
    """
    engine = connection.engine
    await engine.settled()
    connection.history = await engine.history.by_packet_id(device, connection.number)
    connection.history_of = device


async def _take_asking(
    connection: "Connection", packet: Publish, telemetry: Destination | None, *, allowed: bool
) -> None:
    """With plugins that are to be told or asked about every message.

    What the client has no right to they never hear of: a plugin that acts on messages must not act on that one.
    """
    hooks, client_id = connection.engine.hooks, connection.client_id
    if allowed and hooks.sees("message_received"):
        hooks.fire("message_received", client=connection, packet=packet)
    if allowed and hooks.checks_topics:
        allowed = await hooks.agrees(connection, client_id, packet.topic, "publish")
    ask = allowed and hooks.checks_topics
    deliveries = await connection.engine.agreed(_message(connection, packet)) if ask else None
    if not connection.ended:
        serving = _take(connection, packet, telemetry, allowed=allowed, deliveries=deliveries)
        if serving is not None:
            await serving
    if allowed and hooks.sees("message_broadcast"):
        hooks.fire("message_broadcast", client=connection, packet=packet)


def _take(
    connection: "Connection",
    packet: Publish,
    telemetry: Destination | None,
    *,
    allowed: bool,
    deliveries: "Deliveries | None" = None,
) -> Coroutine[Any, Any, None] | None:
    """Take one; what has to be waited for before the next one is read, where it is a request to the server itself."""
    engine, principal = connection.engine, connection.admitted
    ledger = engine.ledger
    account = telemetry.device if allowed and telemetry is not None else principal.name
    ledger.received(account, packet.qos, len(packet.payload), engine.clock())
    slot = acks.reserve(connection) if packet.qos else None
    if not allowed:
        _deny(connection, packet, account, slot)
        return None
    if telemetry is not None and (invalid := telemetry.invalid(packet.payload, engine.clock())) is not None:
        _reject_invalid(connection, packet, account, slot, invalid)
        return None
    session, before = connection.session, engine.store.changes
    if packet.qos == 2 and session is not None:
        if packet.packet_id in session.received:  # [MQTT-4.3.3-10]
            ledger.duplicate(account)
            _acknowledge_when_safe(connection, packet, slot)
            return None
        engine.sessions.received(session, packet.packet_id)
    if telemetry is None:
        engine.ledger.routed(account)
        if engine.hooks.serves(packet.topic):
            return _serve(connection, packet, slot)
        _route(connection, packet, slot, before, deliveries)
    elif _is_copy(connection, packet, telemetry):
        ledger.duplicate(account)
        _acknowledge_when_safe(connection, packet, slot)
    else:
        _store(connection, packet, telemetry, slot, before, deliveries)
    return None


def _reject_invalid(connection: "Connection", packet: Publish, account: str, slot: acks.Slot | None, why: str) -> None:
    """A payload that its stream's schema does not allow: acknowledged, and told where the client understands it."""
    engine = connection.engine
    engine.ledger.rejected(account, "schema")
    engine.hooks.refused("publish", account, "schema", why, packet.topic, str(connection.peer))
    if slot is not None:
        answer = Ack(_answer(packet), packet.packet_id, Reason.PAYLOAD_FORMAT_INVALID, connection.explained(why))
        acks.acknowledge(connection, slot, answer)


async def _serve(connection: "Connection", packet: Publish, slot: acks.Slot | None) -> None:
    """A request to the server itself: nobody else gets it, nor the answer."""
    engine, connect = connection.engine, connection.connect
    if connect is None:
        raise ProtocolError("not connected")
    candidate = Candidate(connection.peer, connect, connection)
    answer = await engine.hooks.serve(candidate, connection.admitted, packet.topic, packet.payload)
    session = connection.session
    if connection.ended or session is None:
        return
    if answer is not None:
        topic, payload = answer
        granted = [one for one in session.subscriptions.values() if matches(one.options.topic_filter, topic)]
        if granted and connection.admitted.rights.may_receive(topic):
            kept = {name: packet.properties[name] for name in _ANSWERED if name in packet.properties}
            message = Message(topic, payload, 1, properties=kept)
            engine.sessions.offer(session, Delivery(message, min(1, max(one.options.qos for one in granted))))
    if slot is not None:
        ready = partial(acks.acknowledge, connection, slot, Ack(_answer(packet), packet.packet_id))
        engine.store.when_written(ready)


def _deny(connection: "Connection", packet: Publish, account: str, slot: acks.Slot | None) -> None:
    engine = connection.engine
    engine.ledger.rejected(account, "not_authorized")
    engine.hooks.refused(
        "publish",
        account,
        "not_authorized",
        f"{account} has no right to this topic",
        packet.topic,
        str(connection.peer),
    )
    if connection.version != V5 and engine.limits.close_on_denied:
        connection.close(Reason.NOT_AUTHORIZED, "a publish without a right", why="not_authorized")
    elif slot is not None:
        # 3.1.1 has no word for it: acknowledged and dropped [3.1.1: MQTT-3.3.5-2].
        why = connection.explained("no right to this topic")
        acks.acknowledge(connection, slot, Ack(_answer(packet), packet.packet_id, Reason.NOT_AUTHORIZED, why))


def _is_copy(connection: "Connection", packet: Publish, telemetry: Destination) -> bool:
    """Whether this is a message that an earlier connection of the device brought already.

    Without DUP it never is: small clients use packet ids and payloads again.
    """
    if not packet.qos:
        return False
    if not packet.dup:
        connection.history = None  # from now on the last message with this packet id is this one
        return False
    found = (connection.history or {}).get(packet.packet_id.to_bytes(2))
    return found == copy_digest(telemetry.stream, packet.payload)


def _store(
    connection: "Connection",
    packet: Publish,
    telemetry: Destination,
    slot: acks.Slot | None,
    before: int,
    deliveries: "Deliveries | None",
) -> None:
    engine = connection.engine
    if not packet.qos and engine.intake.sheds:
        engine.ledger.dropped(telemetry.device, "intake_full")
        return
    telemetry = engine.streams.admitted(telemetry, packet.topic)
    batch = engine.intake.batch
    batch.append(telemetry.device, telemetry.stream, engine.clock(), packet.payload, telemetry.reader)
    batch.connections.append(connection.number)
    batch.packet_ids.append(packet.packet_id.to_bytes(2))
    if packet.retain or engine.sessions.router.wanted(packet.topic):
        engine.publish(_message(connection, packet), deliveries)
    if slot is not None:
        ready = partial(acks.acknowledge, connection, slot, Ack(_answer(packet), packet.packet_id))
        batch.acks.append(partial(engine.store.when_written, ready, before))
    engine.intake.added()
    if not engine.hooks.checks_topics and not packet.properties and not telemetry.rejects:
        _remember(connection, packet.topic, telemetry)


def _remember(connection: "Connection", topic: str, telemetry: Destination) -> None:
    """From now on the lane takes this topic."""
    routes = connection.routes
    if len(routes) >= _ROUTES:
        routes.clear()
    routes[topic.encode()] = Route(topic, telemetry, connection.engine.ledger.account(telemetry.device))


def _route(
    connection: "Connection",
    packet: Publish,
    slot: acks.Slot | None,
    before: int,
    deliveries: "Deliveries | None",
) -> None:
    engine = connection.engine
    count = engine.publish(_message(connection, packet), deliveries)
    if slot is not None:
        nobody = connection.version == V5 and not count
        reason = Reason.NO_MATCHING_SUBSCRIBERS if nobody else Reason.SUCCESS
        answer = Ack(_answer(packet), packet.packet_id, reason)
        engine.store.when_written(partial(acks.acknowledge, connection, slot, answer), before)


def _message(connection: "Connection", packet: Publish) -> Message:
    given = dict(packet.properties)
    expires = expires_at(given, connection.engine.steady())
    properties = {name: given[name] for name in FORWARDED if name in given}
    return Message(
        packet.topic,
        packet.payload,
        packet.qos,
        packet.retain,
        properties,
        expires,
        connection.client_id,
        connection.admitted.owner,
        bool(connection.admitted.device),
    )


def _acknowledge_when_safe(connection: "Connection", packet: Publish, slot: acks.Slot | None) -> None:
    """A copy is acknowledged when its original may be."""
    engine = connection.engine
    if slot is not None:
        ready = partial(acks.acknowledge, connection, slot, Ack(_answer(packet), packet.packet_id))
        engine.intake.when_settled(partial(engine.store.when_written, ready))


def _answer(packet: Publish) -> Kind:
    return Kind.PUBREC if packet.qos == 2 else Kind.PUBACK
