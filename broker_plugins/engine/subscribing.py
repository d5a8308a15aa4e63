"""SUBSCRIBE and UNSUBSCRIBE of a client."""

from typing import TYPE_CHECKING

from broker_plugins.engine import resending
from broker_plugins.engine.limits import Limits
from broker_plugins.engine.packets import Suback, Subscribe, Subscription, Unsuback, Unsubscribe
from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.router import split_share
from broker_plugins.engine.session import Session
from broker_plugins.engine.topics import count_levels, why_invalid

if TYPE_CHECKING:
    from broker_plugins.engine.connection import Connection

_NEW_ONLY = 1
_NEVER = 2
_MEAN_LEVELS = 16
"""Of a session's subscriptions, when there are many: the look-up of a message goes from level to level."""


def take(connection: "Connection", session: Session, packet: Subscribe | Unsubscribe) -> None:
    """Take one packet; it is answered once it is on disk, where the session is to be kept."""
    if not _answerable(connection, packet):
        detail = "the answer to its filters is larger than the client's Maximum Packet Size"
        connection.close(Reason.PACKET_TOO_LARGE, detail, why="client_packet_size")
    elif isinstance(packet, Unsubscribe):
        _unsubscribe(connection, session, packet)
    elif connection.engine.hooks.checks_topics:
        connection.suspend(_subscribe_asking(connection, session, packet))
    else:
        _subscribe(connection, session, packet, [_judge(connection, entry) for entry in packet.subscriptions])


def _answerable(connection: "Connection", packet: Subscribe | Unsubscribe) -> bool:
    """Whether the client takes an answer of this size: a reason code for each filter [MQTT-3.1.2-24]."""
    if isinstance(packet, Subscribe):
        return connection.encoded(Suback(packet.packet_id, [0] * len(packet.subscriptions))) is not None
    return connection.encoded(Unsuback(packet.packet_id, [0] * len(packet.topic_filters))) is not None


async def _subscribe_asking(connection: "Connection", session: Session, packet: Subscribe) -> None:
    hooks, reasons = connection.engine.hooks, []
    for entry in packet.subscriptions:
        reason = _judge(connection, entry)
        asked = split_share(entry.topic_filter)[1]
        if reason < 0x80 and not await hooks.agrees(connection, session.client_id, asked, "subscribe"):
            reason = _refused(connection, entry, Reason.NOT_AUTHORIZED, "a plugin does not agree")
        reasons.append(reason)
    if not connection.ended:
        _subscribe(connection, session, packet, reasons)


def _judge(connection: "Connection", entry: Subscription) -> int:
    limits, principal = connection.engine.limits, connection.admitted
    if (wrong := why_invalid(entry.topic_filter, limits.levels)) is not None:
        return _refused(connection, entry, Reason.TOPIC_FILTER_INVALID, wrong)
    if not principal.rights.may_subscribe(split_share(entry.topic_filter)[1]):
        return _refused(connection, entry, Reason.NOT_AUTHORIZED, f"{principal.name} has no right to this filter")
    return entry.qos


def _refused(connection: "Connection", entry: Subscription, reason: Reason, detail: str) -> int:
    name = connection.admitted.name
    connection.engine.hooks.refused(
        "subscribe", name, reason.name.lower(), detail, entry.topic_filter, str(connection.peer)
    )
    return reason


def _exceeded(limits: Limits, count: int, levels: int) -> str | None:
    """The limit that subscriptions of this number and these levels exceed; None: they exceed none."""
    if count > limits.subscriptions:
        return f"more than {limits.subscriptions} subscriptions"
    most = limits.levels + _MEAN_LEVELS * limits.subscriptions
    return f"more than {most} levels in all subscriptions" if levels > most else None


def _subscribe(connection: "Connection", session: Session, packet: Subscribe, reasons: list[int]) -> None:
    engine = connection.engine
    before = engine.store.changes
    (identifier,) = packet.properties.get("subscription_identifier", [0])
    retained: dict[str, tuple[Subscription, int]] = {}
    levels = sum(map(count_levels, session.subscriptions))
    for position, entry in enumerate(packet.subscriptions):
        if reasons[position] >= 0x80:
            continue
        if entry.topic_filter not in session.subscriptions:
            more = levels + count_levels(entry.topic_filter)
            if (detail := _exceeded(engine.limits, len(session.subscriptions) + 1, more)) is not None:
                reasons[position] = _refused(connection, entry, Reason.QUOTA_EXCEEDED, detail)
                continue
            levels = more
        new = engine.sessions.subscribe(session, entry, identifier)
        shared = split_share(entry.topic_filter)[0] is not None
        # [MQTT-3.8.4-4] and 3.8.3.1; a shared subscription gets none [4.8.2]
        if not shared and entry.retain_handling != _NEVER and (new or entry.retain_handling != _NEW_ONLY):
            retained[entry.topic_filter] = entry, identifier
        if engine.hooks.sees("client_subscribed"):
            engine.hooks.fire("client_subscribed", client=connection, topic=entry.topic_filter, qos=entry.qos)

    def answer() -> None:
        connection.send_packet(Suback(packet.packet_id, reasons))
        if not connection.ended:
            resending.send(connection, session, retained)

    engine.store.when_written(answer, before)


def _unsubscribe(connection: "Connection", session: Session, packet: Unsubscribe) -> None:
    engine, reasons = connection.engine, []
    before = engine.store.changes
    for topic_filter in packet.topic_filters:
        found = engine.sessions.unsubscribe(session, topic_filter)
        reasons.append(int(Reason.SUCCESS if found else Reason.NO_SUBSCRIPTION_EXISTED))
        if engine.hooks.sees("client_unsubscribed"):
            engine.hooks.fire("client_unsubscribed", client=connection, topic=topic_filter)
    engine.store.when_written(lambda: connection.send_packet(Unsuback(packet.packet_id, reasons)), before)
