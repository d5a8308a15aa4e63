"""CONNECT: identity and policy first, and only then the session. A refused one changes nothing anywhere."""

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from broker_plugins.engine import watching
from broker_plugins.engine.errors import Denied, ProtocolError
from broker_plugins.engine.hooks import Candidate, Principal
from broker_plugins.engine.packets import V5, Connack, Connect
from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.session import NEVER
from broker_plugins.engine.topics import check_levels
from broker_plugins.engine.waiting import called_back
from broker_plugins.engine.wheel import at_least
from fleet.topics import is_servers

if TYPE_CHECKING:
    from broker_plugins.engine.connection import Connection

_FULL_WINDOW = 65_535


@dataclass(frozen=True, slots=True)
class _Granted:
    """The values granted to a client: `expiry` of its session and `keep_alive` in seconds."""

    principal: Principal
    expiry: int
    keep_alive: int


async def connect(connection: "Connection", packet: Connect) -> None:
    """Let a client in, or refuse it."""
    engine = connection.engine
    try:
        granted = _granted(connection, packet, await _judge(connection, packet))
        properties = _properties(connection, packet, granted)
        if connection.encoded(Connack(False, Reason.SUCCESS, properties)) is None:
            raise _too_small(connection, granted.principal)
    except Denied as denied:
        if not connection.ended:
            connection.refuse(denied)
        return
    if connection.ended:
        return
    before = engine.store.changes
    present = _open_session(connection, packet, granted)
    await called_back(partial(engine.store.when_written, since=before))  # a session that is announced survives
    if connection.ended or connection.session is None:
        return
    if engine.hooks.sees("packet_received"):  # live views are not shown a CONNECT: it has a password
        engine.hooks.fire("packet_received", client=connection, packet=packet)
    connection.send_packet(Connack(present, Reason.SUCCESS, properties))
    engine.connected(connection)
    asked = packet.properties.get("receive_maximum", _FULL_WINDOW)
    engine.sessions.attach(connection.session, connection, min(asked, engine.limits.window))
    watching.for_silence(connection)


def _too_small(connection: "Connection", principal: Principal) -> Denied:
    detail = f"maximum packet size {connection.client_max_packet}: CONNACK does not fit"
    return Denied("client_packet_size", detail, Reason.PACKET_TOO_LARGE, principal.name)


async def _judge(connection: "Connection", packet: Connect) -> Principal:
    engine = connection.engine
    if "authentication_method" in packet.properties:  # [MQTT-4.12.0-1]
        raise Denied("authentication_method", "no such method", Reason.BAD_AUTHENTICATION_METHOD)
    if not packet.client_id and not packet.clean_start and packet.version != V5:  # [3.1.1: MQTT-3.1.3-8]
        raise Denied("client_id", "no client id, and a session to keep", Reason.CLIENT_IDENTIFIER_NOT_VALID)
    principal = await engine.hooks.admit(Candidate(connection.peer, packet, connection))
    # Who shows no certificate has no identity to count by; plugins alone decide about it.
    certified = connection.peer.certificate is not None
    if certified and not principal.shared and not engine.flapping.connects(principal.owner, time.monotonic()):
        detail = f"{principal.name} connects again and again"
        raise Denied("flapping", detail, Reason.CONNECTION_RATE_EXCEEDED, principal.name)
    await _check_will(connection, packet, principal)
    _check_owner(connection, principal)  # last: until the session is opened nothing waits
    return principal


def _check_owner(connection: "Connection", principal: Principal) -> None:
    """Raise Denied for a client id whose session has another owner.

    The client id of this identity itself is allowed: its certificate proves it, and the other session ends.
    """
    engine = connection.engine
    session = engine.sessions.by_client_id.get(principal.client_id)
    if session is None or session.owner == principal.owner:
        return
    own = connection.peer.certificate is not None and engine.hooks.owner_of(principal.client_id) == principal.owner
    if not own:
        detail = f"client id {principal.client_id[:200]!r} is somebody else's"
        raise Denied("client_id", detail, name=principal.name)


async def _check_will(connection: "Connection", packet: Connect, principal: Principal) -> None:
    will, hooks = packet.will, connection.engine.hooks
    if will is None:
        return
    try:
        check_levels(will.topic, connection.engine.limits.levels)
    except ProtocolError as error:
        raise Denied("will", str(error), error.reason, principal.name) from error
    rights = principal.rights
    allowed = rights.may_publish(will.topic) and not is_servers(will.topic)
    allowed = allowed and (not will.retain or rights.may_retain(will.topic))
    if allowed and hooks.checks_topics:
        allowed = await hooks.agrees(connection, principal.client_id, will.topic, "publish")
    if not allowed:
        raise Denied("will", f"{principal.name} has no right to the topic of its will", name=principal.name)


def _granted(connection: "Connection", packet: Connect, principal: Principal) -> _Granted:
    limits = connection.engine.limits
    if packet.version == V5:
        expiry = packet.properties.get("session_expiry_interval", 0)
    else:
        expiry = 0 if packet.clean_start else NEVER
    expiry = 0 if principal.shared else min(expiry, limits.session_seconds)
    keep_alive = packet.keep_alive
    if limits.max_keep_alive and not 0 < keep_alive <= limits.max_keep_alive:
        keep_alive = limits.max_keep_alive
    return _Granted(principal, expiry, keep_alive)


def _open_session(connection: "Connection", packet: Connect, granted: _Granted) -> bool:
    """Take over the connection and session of the client id in one step, without waiting. Returns session present."""
    engine, limits, principal = connection.engine, connection.engine.limits, granted.principal
    old = engine.connections.get(principal.client_id)
    if old is not None:  # [MQTT-3.1.4-3]
        old.close(Reason.SESSION_TAKEN_OVER, "the client connected again", why="taken_over")
    session = engine.sessions.by_client_id.get(principal.client_id)
    if session is not None and session.owner != principal.owner:
        engine.sessions.close(session)
    session, present = engine.sessions.open(
        principal.client_id, principal.owner, clean=packet.clean_start, expiry=granted.expiry
    )
    engine.returned(principal, present=present)
    connection.opened(principal, session)
    connection.will = packet.will
    connection.max_aliases_out = min(packet.properties.get("topic_alias_maximum", 0), limits.topic_aliases)
    connection.keep_alive_ticks = at_least(1.5 * granted.keep_alive)
    return present


def _properties(connection: "Connection", packet: Connect, granted: _Granted) -> dict[str, int | str]:
    limits = connection.engine.limits
    if packet.version != V5:
        return {}
    found: dict[str, int | str] = {
        "maximum_packet_size": limits.packet_bytes,
        "topic_alias_maximum": limits.topic_aliases,
    }
    if granted.expiry != packet.properties.get("session_expiry_interval", 0):
        found["session_expiry_interval"] = granted.expiry
    if not packet.client_id:
        found["assigned_client_identifier"] = granted.principal.client_id  # [MQTT-3.1.3-7]
    if granted.keep_alive != packet.keep_alive:
        found["server_keep_alive"] = granted.keep_alive
    return found
