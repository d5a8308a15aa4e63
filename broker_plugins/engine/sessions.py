"""All sessions: made, kept, taken up again, expired; and what waits for them."""

from collections.abc import Iterable

from broker_plugins.engine.message import Delivery
from broker_plugins.engine.packets import Subscription
from broker_plugins.engine.router import RightsOf, Router
from broker_plugins.engine.schedule import Schedule
from broker_plugins.engine.session import NEVER, Granted, Outlet, QueueLimits, Session
from broker_plugins.engine.store import SessionStore
from ingester.clock import Clock


class Deliveries:
    """Counts of what came of deliveries, as plain integers."""

    def __init__(self) -> None:
        self.sent = 0
        self.dropped: dict[str, int] = {}

    def drop(self, reason: str, count: int = 1) -> None:
        """Count deliveries that were lost."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count


class Sessions:
    """Sessions by client id. What is to survive the process goes to `store` with each change."""

    def __init__(self, store: SessionStore, limits: QueueLimits, rights_of: RightsOf, clock: Clock) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self.by_client_id: dict[str, Session] = {}
        self._rights_of = rights_of
        self.router = Router(rights_of)
        self.deliveries = Deliveries()
        self._expiry = Schedule()

    def load(self, sessions: Iterable[Session]) -> None:
        """Take in what was written down by an earlier process: none of them has a connection."""
        for session in sessions:
            session.ended = session.ended or self._clock()
            self._expire_later(session)
            self.by_client_id[session.client_id] = session
            for granted in session.subscriptions.values():
                self.router.add(session, granted)

    def open(self, client_id: str, owner: str, *, clean: bool, expiry: int) -> tuple[Session, bool]:
        """The session of a client that connects, and whether it was there before [3.1.2.4]."""
        session = self.by_client_id.get(client_id)
        present = session is not None and not clean
        if session is not None and clean:
            self.close(session)
            session = None
        if session is None:
            session = self.by_client_id[client_id] = Session(client_id, owner, self._limits)
        if session.kept and not expiry:
            self._store.forget(client_id)
            _unwritten(session)
        changed = (session.expiry, session.ended) != (expiry, 0)
        session.expiry, session.ended = expiry, 0
        self._expiry.drop(client_id)
        if changed and expiry:
            self._store.session(session)
        return session, present

    def attach(self, session: Session, outlet: Outlet, window: int) -> None:
        """A connection takes a session up: what is on its way is sent again, then what waits."""
        self.withhold(session)
        session.outlet, session.window = outlet, window
        for delivery in session.resume():
            self.deliveries.drop("too_large")
            self._store.delivered(delivery)
        self.pump(session)

    def withhold(self, session: Session) -> None:
        """Drop what waits for a session that has no right to it any more."""
        if not session.queue and not session.inflight:
            return
        rights = self._rights_of(session)
        for delivery in session.withhold(lambda topic: rights is not None and rights.may_receive(topic)):
            self.deliveries.drop("not_authorized")
            self._store.delivered(delivery)

    def detach(self, session: Session) -> None:
        """The session's connection has ended."""
        session.outlet = None
        if not session.kept:
            self.close(session)
            return
        session.ended = self._clock()
        self._store.session(session)
        self._expire_later(session)

    def set_expiry(self, session: Session, expiry: int) -> None:
        """The client changes when its session expires [3.14.2.2.2]."""
        if session.kept and not expiry:
            self._store.forget(session.client_id)
            _unwritten(session)
        session.expiry = expiry

    def close(self, session: Session) -> None:
        """A session is over."""
        self.router.forget(session)
        self.by_client_id.pop(session.client_id, None)
        self._expiry.drop(session.client_id)
        lost = len(session.queue) + len(session.inflight)
        if lost:
            self.deliveries.drop("session_ended", lost)
        if session.kept:
            self._store.forget(session.client_id)

    def expire(self) -> list[Session]:
        """Close the sessions whose time is over; returns them."""
        over = [self.by_client_id[client_id] for client_id in self._expiry.due(self._clock())]
        for session in over:
            self.close(session)
        return over

    def _expire_later(self, session: Session) -> None:
        if session.expiry != NEVER:
            self._expiry.put(session.client_id, session.ended + session.expiry * 1_000_000)

    def subscribe(self, session: Session, options: Subscription, identifier: int) -> bool:
        """Add a subscription; True when it is new."""
        granted = Granted(options, identifier)
        if session.kept:
            self._store.subscribed(session.client_id, granted)
        return self.router.subscribe(session, granted)

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        """Take a subscription away; False when there was none."""
        if not self.router.unsubscribe(session, topic_filter):
            return False
        if session.kept:
            self._store.unsubscribed(session.client_id, topic_filter)
        return True

    def offer(self, session: Session, delivery: Delivery, *, always: bool = False) -> None:
        """Send or queue one delivery, see Session.offer, and write it down where it has to survive."""
        if self.by_client_id.get(session.client_id) is not session:
            self.deliveries.drop("session_ended")
            return
        now = self._clock()
        dropped = session.offer(delivery, now, always=always)
        if dropped is not None:
            self.deliveries.drop(dropped)
            return
        if delivery.qos == 0:
            self.deliveries.sent += 1
            return
        if session.kept:
            self._store.delivery(session.client_id, now, delivery)
        self.pump(session, now)

    def pump(self, session: Session, now: int | None = None) -> None:
        """Send what there is room for, as of `now`."""
        for delivery, dropped in session.pump(self._clock() if now is None else now):
            if dropped is None:
                self.deliveries.sent += 1
                self._store.advanced(delivery)
            else:
                self.deliveries.drop(dropped)
                self._store.delivered(delivery)

    def acknowledged(self, session: Session, packet_id: int, *, qos: int) -> bool:
        """PUBACK or PUBCOMP came. False when nothing was waiting for it."""
        delivery = session.acknowledged(packet_id, qos=qos)
        if delivery is None:
            return False
        self._store.delivered(delivery)
        self.pump(session)
        return True

    def refused(self, session: Session, packet_id: int) -> None:
        """The client sent PUBREC with a failure: the delivery is over [4.3.3]."""
        self.acknowledged(session, packet_id, qos=2)

    def stored_by_client(self, session: Session, packet_id: int) -> bool:
        """PUBREC came. False when nothing was waiting for it."""
        delivery = session.stored_by_client(packet_id)
        if delivery is None:
            return False
        self._store.advanced(delivery)
        return True

    def received(self, session: Session, packet_id: int) -> None:
        """A QoS 2 message of the client was taken."""
        session.received.add(packet_id)
        if session.kept:
            self._store.received(session.client_id, packet_id)

    def released(self, session: Session, packet_id: int) -> bool:
        """The client released it. False when there was none."""
        if packet_id not in session.received:
            return False
        session.received.discard(packet_id)
        if session.kept:
            self._store.released(session.client_id, packet_id)
        return True


def _unwritten(session: Session) -> None:
    for _, delivery in session.queue:
        delivery.row = 0
    for delivery in session.inflight.values():
        delivery.row = 0
