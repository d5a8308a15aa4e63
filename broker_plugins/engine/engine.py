"""The engine: what all connections share, and what happens to a client, a message, a session."""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import structlog

from broker_plugins.engine.connection import Connection
from broker_plugins.engine.flapping import Flapping
from broker_plugins.engine.heap import Heap
from broker_plugins.engine.hooks import Candidate, Hooks, Principal, Rights
from broker_plugins.engine.intake import Ingester, Intake
from broker_plugins.engine.limits import Limits
from broker_plugins.engine.message import Delivery, Message
from broker_plugins.engine.packets import Packet, Will
from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.retained import Retained
from broker_plugins.engine.session import Session
from broker_plugins.engine.sessions import Sessions
from broker_plugins.engine.store import SessionStore
from broker_plugins.engine.topics import expires_at
from broker_plugins.engine.waiting import called_back
from broker_plugins.engine.wheel import Wheel, ticks
from broker_plugins.engine.wills import Wills
from ingester.clock import Clock, now_us, steady
from ingester.ledger import Ledger
from ingester.streams import Streams

log = structlog.get_logger("fleetgate.mqtt")

_SWEEP_SECONDS = 0.5
_CLOSE_SECONDS = 1.0
_CLOSE_POLL_SECONDS = 0.01
_RETAINED_SWEEP = 60
_SLICE = 20
_EXPECTED_BYTES = 64 * 1024 * 1024

Deliveries = list[tuple[Session, Delivery]]

Trace = Callable[[str, str, Packet], None]
"""Shows one packet to a live view: client id, `in` or `out`, packet."""


class History(Protocol):
    """Where messages sent again are recognised by: the telemetry store."""

    async def by_packet_id(self, device: str, connection: int) -> dict[bytes, bytes]:
        """The last message of each packet id that came by another connection: packet id -> digest."""
        ...


class Engine:
    """An async context manager around the session file at `path`. Listeners feed it connections."""

    def __init__(
        self,
        path: Path,
        hooks: Hooks,
        ingester: Ingester,
        history: History,
        ledger: Ledger,
        streams: Streams,
        limits: Limits | None = None,
        clock: Clock = now_us,
        even: Clock | None = None,
    ) -> None:
        self.hooks = hooks
        self.limits = limits or Limits()
        self.clock = clock
        self.steady = even or steady()
        """For how long something waited, or may: the wall clock may be set."""
        self.ledger = ledger
        self.history = history
        self.streams = streams
        streams.changed.append(self.forget_routes)
        self.store = SessionStore(path)
        self.intake = Intake(ingester, lambda: self.store.full)
        self.wheel = Wheel()
        self.sessions = Sessions(self.store, self.limits.queue, self.rights_of, self.steady)
        self.retained = Retained(
            self.limits.retained_messages,
            self.limits.retained_bytes,
            self.limits.device_retained,
            self.limits.device_retained_bytes,
        )
        self.flapping = Flapping(self.limits.flapping_connects, self.limits.flapping_seconds)
        self.wills = Wills()
        self._heap = Heap()
        self.connections: dict[str, Connection] = {}
        """Those that were let in, by client id."""
        self.all: set[Connection] = set()
        """Those that were let in and those that were not yet."""
        self.expected_bytes = 0
        """Bytes of large CONNECT packets that are on their way: they are kept before anybody is let in."""
        self.max_expected_bytes = max(_EXPECTED_BYTES, 4 * self.limits.connect_bytes)
        self.tracing: dict[Trace, str | None] = {}
        """Live views of packets, and the account each looks at (None: all)."""
        self.observed = False
        """Whether a plugin wants to see every message or packet."""
        self._by_owner: dict[str, set[Connection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._dirty: list[Connection] = []
        self._numbers = secrets.randbits(62)
        self._sweeps = 0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.store)
            self.sessions.load(await self.store.sessions(self.limits.queue))
            for message in await self.store.retained_messages():
                self.retained.keep(message)
            await stack.enter_async_context(self.intake)
            await stack.enter_async_context(self.wheel)
            self.wheel.add(self, ticks(_SWEEP_SECONDS))
            stack.push_async_callback(self._end_tasks)
            self._stack = stack.pop_all()
        self.observed = any(
            map(self.hooks.sees, ("message_received", "message_broadcast", "packet_received", "packet_sent"))
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that waits; it is awaited when the engine is left."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def number(self) -> int:
        """A number for a new connection that none had before, nor in an earlier process: those began elsewhere."""
        self._numbers += 1
        return self._numbers

    def flush_soon(self, connection: Connection) -> None:
        """Write what a connection has to send when this turn of the loop is over: in one piece."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(connection)

    def tick(self, _now: int) -> int:
        """See Timed: sessions, wills and retained messages whose time has come."""
        now = time.monotonic()
        for session in self.sessions.expire():
            if (will := self.wills.take(session.client_id)) is not None:
                self._publish_will(*will)
        for owner, message in self.wills.due(now):
            self._publish_will(owner, message)
        self._heap.tidy()
        self._sweeps += 1
        if self._sweeps % _RETAINED_SWEEP == 0:
            self.flapping.forget_old(now)
            for topic in self.retained.expired(self.steady()):
                self.clear_retained(topic)
        return ticks(_SWEEP_SECONDS)

    def opened(self, connection: Connection, principal: Principal) -> None:
        """A connection was let in; whoever had its client id before is gone."""
        self.connections[principal.client_id] = connection
        self._by_owner.setdefault(principal.owner, set()).add(connection)

    def returned(self, principal: Principal, *, present: bool) -> None:
        """A client is back: its will is not due any more, unless its session is over [MQTT-3.1.3-9]."""
        will = self.wills.take(principal.client_id)
        if will is not None and not present:
            self._publish_will(*will)

    def connected(self, connection: Connection) -> None:
        """A connection was told that it was let in."""
        connection.connected_at = self.clock()
        connection.traced = self._is_traced(connection.admitted.name)
        connection.arrival.let_in()
        if self.hooks.sees("client_connected"):
            self.hooks.fire("client_connected", client=connection)

    def disconnected(self, connection: Connection, principal: Principal, *, will: Will | None) -> None:
        """A connection that was let in has ended; `will` is None where it is not to be published."""
        if self.connections.get(principal.client_id) is connection:
            del self.connections[principal.client_id]
        owned = self._by_owner.get(principal.owner)
        if owned is not None:
            owned.discard(connection)
            if not owned:
                del self._by_owner[principal.owner]
        session = connection.session
        if will is not None:
            self._leave_will(principal, session, will)
        if session is not None and session.outlet in {connection, None}:
            self.sessions.detach(session)
        if connection.connected_at and self.hooks.sees("client_disconnected"):
            self.hooks.fire("client_disconnected", client=connection)

    def connection_of(self, owner: str) -> Connection | None:
        """The connection of an identity; one of them, where it has several. None: it has none."""
        return next(iter(self._by_owner.get(owner, ())), None)

    def lost(self, connection: Connection) -> None:
        """The socket of a connection is gone."""
        self.all.discard(connection)
        self._heap.gone()

    def reconsider(self, owner: str) -> None:
        """An identity changed: end its connections when it may have none any more, else judge its topics anew."""
        for connection in list(self._by_owner.get(owner, ())):
            packet = connection.connect
            rights = None if packet is None else self.hooks.rejudge(Candidate(connection.peer, packet))
            if rights is None:
                connection.will = None
                connection.close(Reason.ADMINISTRATIVE_ACTION, "no longer let in", why="no_longer_let_in")
            else:
                connection.judge_anew(rights)
        self.sessions.router.generation += 1

    def reconsider_all(self) -> None:
        """What decides about everybody changed: `reconsider` each of them, without holding up the loop."""
        self.run(self._reconsider(list(self._by_owner)))

    def renew_rights(self, owners: Iterable[str] | None) -> None:
        """The rights of these identities changed, or of all: who they are did not."""
        self.run(self._renew(list(self._by_owner) if owners is None else list(owners)))

    def forget_routes(self) -> None:
        """Topics may be telemetry of something else now: what connections know of theirs counts no more."""
        for connections in self._by_owner.values():
            for connection in connections:
                connection.routes.clear()

    def forget(self, owner: str) -> None:
        """An identity is gone for good, or what was kept for it is to go: its sessions, and what waits in them."""
        self.reconsider(owner)
        self.wills.drop(owner)
        self.flapping.forget(owner)
        for session in [found for found in self.sessions.by_client_id.values() if found.owner == owner]:
            self.sessions.close(session)

    def forget_retained(self, owner: str, topic_filter: str) -> None:
        """Clear what is retained of an identity: what it published, and what is kept at topics of its own."""
        for topic in {*self.retained.of(owner), *self.retained.below(topic_filter)}:
            self.clear_retained(topic)

    async def written(self) -> None:
        """Wait until all that was changed so far of sessions and retained messages is on disk."""
        await called_back(self.store.when_written)

    def publish(self, message: Message, deliveries: Deliveries | None = None) -> int:
        """Keep a message where it is to be retained, and hand it to its subscribers; how many those are.

        Once `store.when_written` calls back, all of that is on disk as far as it has to survive. Where plugins check
        topics, `deliveries` are those that `agreed` found.
        """
        if message.retain:
            self.retain(message)
        count = 0
        for session, delivery in self.sessions.router.route(message) if deliveries is None else deliveries:
            self.sessions.offer(session, delivery)
            count += 1
            if session.outlet is None and session.queue and session.queue[-1][1] is delivery:
                self._waits(session.client_id, message)
        return count

    def _waits(self, client_id: str, message: Message) -> None:
        """A message was kept for a client that is not connected."""
        if self.hooks.sees("retained_message"):
            self.hooks.fire("retained_message", engine=self, message=message, cleared=False, client_id=client_id)

    async def agreed(self, message: Message, found: Deliveries | None = None) -> Deliveries:
        """The deliveries of a message that every plugin agrees to; of those `found`, where that was done already."""
        return [
            (session, delivery)
            for session, delivery in list(self.sessions.router.route(message) if found is None else found)
            if await self.hooks.agrees(session.outlet, session.client_id, message.topic, "receive")
        ]

    async def broadcast(self, message: Message) -> int:
        """Publish something of the server's own; returns when it is on disk as far as it has to survive."""
        before = self.store.changes
        count = self.publish(message, await self.agreed(message) if self.hooks.checks_topics else None)
        await called_back(partial(self.store.when_written, since=before))
        return count

    def offer(self, session: Session, delivery: Delivery) -> None:
        """A retained message to one session, with every plugin asked."""
        if self.hooks.checks_topics:
            self.run(self._offer_checked(session, delivery))
        else:
            self.sessions.offer(session, delivery, always=True)

    async def settled(self) -> None:
        """Wait until all that connections sent so far is committed."""
        await called_back(self.intake.when_settled)

    def clear_retained(self, topic: str) -> None:
        """Forget the retained message of a topic."""
        cleared = self.retained.clear(topic)
        if cleared is not None:
            self.store.unretained(topic)
            if self.hooks.sees("retained_message"):
                self.hooks.fire("retained_message", engine=self, message=cleared, cleared=True)

    def trace(self, show: Trace, account: str | None) -> None:
        """Show the packets of an account's connections, or of all, until `untrace`."""
        self.tracing[show] = account
        self._retrace()

    def untrace(self, show: Trace) -> None:
        """End what `trace` began."""
        self.tracing.pop(show, None)
        self._retrace()

    def saw(self, connection: Connection, direction: str, packet: Packet) -> None:
        """Show a packet to whoever watches, and to plugins that want to see packets."""
        principal = connection.principal
        if principal is not None:
            for show, account in self.tracing.items():
                if account in {None, principal.name}:
                    show(principal.client_id, direction, packet)
        event = "packet_received" if direction == "in" else "packet_sent"
        if self.hooks.sees(event):
            self.hooks.fire(event, client=connection, packet=packet)

    async def drain(self) -> None:
        """Take nothing more from any connection, and offer what was taken."""
        for connection in list(self.all):
            connection.stop_reading()
        self.intake.flush()

    async def close_all(self, reason: Reason) -> None:
        """End all connections, and wait until what was sent to them has left, or they were given up."""
        for connection in list(self.all):
            connection.close(reason, "the server stops", why="shutting_down", log_it=False)
        deadline = time.monotonic() + _CLOSE_SECONDS
        while self.all and time.monotonic() < deadline:  # noqa: ASYNC110 - the last one of them tells nobody
            await asyncio.sleep(_CLOSE_POLL_SECONDS)

    def retain(self, message: Message) -> None:
        """Keep a message as the last one of its topic; an empty one clears it."""
        if not message.payload:
            self.clear_retained(message.topic)
            return
        if not self.retained.keep(message):
            self.sessions.deliveries.drop("retained_full")
            return
        self.store.retained(message)
        if self.hooks.sees("retained_message"):
            self.hooks.fire("retained_message", engine=self, message=message, cleared=False)

    def _leave_will(self, principal: Principal, session: Session | None, will: Will) -> None:
        properties = dict(will.properties)
        delay = properties.pop("will_delay_interval", 0)
        message = Message(
            will.topic,
            will.payload,
            will.qos,
            will.retain,
            properties,
            None,  # a will's expiry interval begins when it is published [3.1.3.2.4]
            principal.client_id,
            principal.owner,
            bool(principal.device),
        )
        if session is not None:
            delay = min(delay, session.expiry)  # the end of the session ends the delay [MQTT-3.1.3-9]
        if delay:
            self.wills.put(principal.client_id, principal.owner, message, time.monotonic() + delay)
        else:
            self._publish_will(principal.owner, message)

    def _publish_will(self, owner: str, message: Message) -> None:
        rights = self.hooks.still(owner)
        if (
            rights is not None
            and rights.may_publish(message.topic)
            and (not message.retain or rights.may_retain(message.topic))
        ):
            properties = dict(message.properties)
            expires = expires_at(properties, self.steady())
            self.run(self._send_will(replace(message, properties=properties, expires=expires)))
        else:
            self.hooks.refused("publish", owner, "not_authorized", "a will without a right any more", message.topic)

    async def _send_will(self, message: Message) -> None:
        await self.broadcast(message)

    async def _reconsider(self, owners: Sequence[str]) -> None:
        for number, owner in enumerate(owners):
            self.reconsider(owner)
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)

    async def _renew(self, owners: Sequence[str]) -> None:
        for number, owner in enumerate(owners):
            for connection in list(self._by_owner.get(owner, ())):
                packet, principal = connection.connect, connection.principal
                if packet is None or principal is None:
                    continue
                rights = self.hooks.renew(Candidate(connection.peer, packet), principal)
                if rights is None:
                    connection.will = None
                    connection.close(Reason.ADMINISTRATIVE_ACTION, "no longer let in", why="no_longer_let_in")
                else:
                    connection.judge_anew(rights)
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        self.sessions.router.generation += 1

    def meter_anew(self, owner: str | None) -> None:
        """The quota of an identity changed, or of all."""
        for found in list(self._by_owner) if owner is None else [owner]:
            for connection in self._by_owner.get(found, ()):
                connection.meter = self.hooks.meter(connection.admitted)

    async def _offer_checked(self, session: Session, delivery: Delivery) -> None:
        if await self.hooks.agrees(session.outlet, session.client_id, delivery.message.topic, "receive"):
            self.sessions.offer(session, delivery, always=True)

    def still_published(self, message: Message) -> bool:
        """Whether whoever published a retained message would still be allowed to."""
        rights = self.hooks.still(message.owner) if message.owner else None
        return not message.owner or (
            rights is not None and rights.may_publish(message.topic) and rights.may_retain(message.topic)
        )

    def rights_of(self, session: Session) -> Rights | None:
        """What a session may do now: that of its connection, where it has one; None: nothing."""
        connection = self.connections.get(session.client_id)
        if connection is not None and connection.session is session and connection.principal is not None:
            return connection.principal.rights
        return self.hooks.still(session.owner)

    def _is_traced(self, account: str) -> bool:
        return any(wanted in {None, account} for wanted in self.tracing.values())

    def _retrace(self) -> None:
        for connection in self.connections.values():
            if connection.principal is not None:
                connection.traced = self._is_traced(connection.principal.name)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            try:
                connection.flush()
            except Exception:  # noqa: BLE001 - the supervision point is there, and logs it
                connection.failed()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", error=repr(error), exc_info=error)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
