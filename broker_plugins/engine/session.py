"""A client's session: subscriptions, what waits for it, what is on its way [4.1]. Synchronous; it owns no socket."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from broker_plugins.engine.message import Delivery, Stage
from broker_plugins.engine.packets import Subscription

NEVER = 0xFFFF_FFFF
"""Session expiry interval of a session that does not expire [3.1.2.11.2]; that of a 3.1.1 session kept."""

_PACKET_IDS = 65_535


class Outlet(Protocol):
    """The connection that a session's deliveries go out by."""

    def deliver(self, delivery: Delivery, *, again: bool) -> bool:
        """Send one; `again` sets DUP. False when it can't be sent and never will: larger than the client takes."""
        ...

    def release(self, packet_id: int) -> None:
        """Send PUBREL."""
        ...

    @property
    def congested(self) -> bool:
        """Whether the client is slow to read what was sent."""
        ...


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait for one session: `messages`, `size_bytes` of them, each at most `age_us` microseconds."""

    messages: int = 1000
    size_bytes: int = 1024 * 1024
    age_us: int = 7 * 86_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class Granted:
    """A subscription as it was granted; `identifier` 0: none."""

    options: Subscription
    identifier: int = 0


class Session:
    """State of one client id. `owner` is the identity that it belongs to, and no other may have it.

    Deliveries with QoS 1 and 2 leave in order; while `window` of them are unacknowledged, or there is no connection,
    they wait in the queue. What does not fit the queue is dropped: what waits there keeps its place.
    """

    __slots__ = (
        "_limits",
        "_next_id",
        "client_id",
        "ended",
        "expiry",
        "inflight",
        "outlet",
        "owner",
        "queue",
        "queue_bytes",
        "received",
        "subscriptions",
        "window",
    )

    def __init__(self, client_id: str, owner: str, limits: QueueLimits, expiry: int = 0) -> None:
        self.client_id = client_id
        self.owner = owner
        self.expiry = expiry
        """Seconds that it lives without a connection; NEVER: for ever."""
        self.ended = 0
        """When its last connection ended, microseconds since 1970-01-01 UTC; 0: it has one, or never had."""
        self.subscriptions: dict[str, Granted] = {}
        self.queue: deque[tuple[int, Delivery]] | tuple[()] = ()
        """(when it came, delivery)."""
        self.queue_bytes = 0
        self.inflight: dict[int, Delivery] = {}
        self.received: set[int] = set()
        """Packet ids of QoS 2 messages that the client has not released yet."""
        self.window = _PACKET_IDS
        self.outlet: Outlet | None = None
        self._limits = limits
        self._next_id = 0

    @property
    def kept(self) -> bool:
        """Whether it outlives its connection, and so is worth writing down."""
        return self.expiry > 0

    def has_room(self, size_bytes: int) -> bool:
        """True if this much more may wait."""
        return len(self.queue) < self._limits.messages and self.queue_bytes + size_bytes <= self._limits.size_bytes

    def offer(self, delivery: Delivery, now: int, *, always: bool = False) -> str | None:
        """Send or queue a delivery, `always` where it may wait beyond the bounds; why it was dropped, or None."""
        if delivery.qos == 0:
            if self.outlet is None:
                return "offline"
            if self.outlet.congested:
                return "congested"
            return None if self.outlet.deliver(delivery, again=False) else "too_large"
        if self.outlet is None and not self.kept:
            return "offline"
        if not always and not self.has_room(delivery.message.size_bytes):
            return "queue_full"
        self._append(now, delivery)
        return None

    def pump(self, now: int) -> Iterator[tuple[Delivery, str | None]]:
        """Send what the window has room for. Yields what left the queue: sent (None), or why it was dropped. A message
        that expires as it comes is sent to who takes it at once: it may not wait.
        """
        while self.queue and self.outlet is not None and len(self.inflight) < self.window:
            if self.outlet.congested:
                return
            came, delivery = self.queue.popleft()
            self.queue_bytes -= delivery.message.size_bytes
            expires = delivery.message.expires
            if now - came > self._limits.age_us or (expires is not None and expires <= now and came < now):
                yield delivery, "expired"
                continue
            delivery.packet_id = self._free_id()
            delivery.stage = Stage.SENT
            self.inflight[delivery.packet_id] = delivery
            if self.outlet.deliver(delivery, again=False):
                yield delivery, None
            else:
                del self.inflight[delivery.packet_id]
                yield delivery, "too_large"

    def withhold(self, may_receive: Callable[[str], bool]) -> list[Delivery]:
        """Take out what may not be received by its topic; what the client has, or may be reading now, stays."""
        gone = [delivery for _, delivery in self.queue if not may_receive(delivery.message.topic)]
        if gone:
            kept = [(came, delivery) for came, delivery in self.queue if may_receive(delivery.message.topic)]
            self.queue = deque(kept)
            self.queue_bytes = sum(delivery.message.size_bytes for _, delivery in kept)
        if self.outlet is None:
            unsent = [
                delivery
                for delivery in self.inflight.values()
                if delivery.stage is Stage.SENT and not may_receive(delivery.message.topic)
            ]
            for delivery in unsent:
                del self.inflight[delivery.packet_id]
            gone += unsent
        return gone

    def resume(self) -> list[Delivery]:
        """On a new connection, send again what is unacknowledged, in the first order [MQTT-4.4.0-1] [MQTT-4.6.0-1].
        Returns what was dropped: the client takes less than it did.
        """
        dropped: list[Delivery] = []
        if self.outlet is None:
            return dropped
        for packet_id, delivery in list(self.inflight.items()):
            if delivery.stage is Stage.RELEASED:
                self.outlet.release(packet_id)
            elif not self.outlet.deliver(delivery, again=True):
                del self.inflight[packet_id]
                dropped.append(delivery)
        return dropped

    def acknowledged(self, packet_id: int, *, qos: int) -> Delivery | None:
        """PUBACK or PUBCOMP came: the delivery is over. None when there is none of that QoS."""
        delivery = self.inflight.get(packet_id)
        if delivery is None or delivery.qos != qos:
            return None
        return self.inflight.pop(packet_id)

    def stored_by_client(self, packet_id: int) -> Delivery | None:
        """PUBREC came: from now on PUBREL is what is sent [MQTT-4.3.3-4]. None when there is no such delivery."""
        delivery = self.inflight.get(packet_id)
        if delivery is None or delivery.qos != 2:
            return None
        delivery.stage = Stage.RELEASED
        return delivery

    def restore(self, came: int, delivery: Delivery) -> None:
        """Put back what was written down; deliveries come in the order in which they were offered."""
        if delivery.stage is Stage.QUEUED:
            self._append(came, delivery)
        else:
            self.inflight[delivery.packet_id] = delivery
            self._next_id = delivery.packet_id

    def _append(self, came: int, delivery: Delivery) -> None:
        if isinstance(self.queue, tuple):  # most sessions never need one
            self.queue = deque()
        self.queue.append((came, delivery))
        self.queue_bytes += delivery.message.size_bytes

    def _free_id(self) -> int:
        while True:
            self._next_id = self._next_id % _PACKET_IDS + 1
            if self._next_id not in self.inflight:
                return self._next_id
