"""Retained messages for new subscriptions [3.3.1.3]: some in each turn of the loop, as many as the client reads."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from broker_plugins.engine.message import Delivery
from broker_plugins.engine.packets import Subscription
from broker_plugins.engine.session import Session

if TYPE_CHECKING:
    from broker_plugins.engine.connection import Connection

Due = Mapping[str, tuple[Subscription, int]]
"""Subscriptions by their filter, each with its identifier, that are to get what is retained."""

_SLICE = 100
"""Messages in one turn of the loop."""


def send(connection: "Connection", session: Session, due: Due) -> None:
    """Send what is retained to these subscriptions. A filter that still waits for its messages gets them once."""
    if connection.resending is not None:
        connection.resending.due.update(due)
    elif due:
        connection.resending = Resending(connection, session, due)
        connection.resending.go_on()


class Resending:
    """The retained messages that a connection has yet to get. It ends with the session, or when all is sent."""

    __slots__ = ("_connection", "_session", "_slices", "_soon", "due")

    def __init__(self, connection: "Connection", session: Session, due: Due) -> None:
        self.due = dict(due)
        self._connection = connection
        self._session = session
        self._slices = self._sent()
        self._soon = False

    def go_on(self) -> None:
        """Send a slice, and then the next one; called again when the client reads again, or is gone."""
        if not self._soon and not (self._connection.congested and not self._connection.ended):
            self._soon = True
            self._step()

    def _step(self) -> None:
        connection, self._soon = self._connection, False
        if connection.resending is not self:
            return
        try:
            more = next(self._slices, False)
        except Exception:  # noqa: BLE001 - the supervision point is there, and logs it
            more = False
            connection.failed()
        if not more:
            connection.resending = None
        elif connection.ended or not connection.congested:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._step)

    def _sent(self) -> Iterator[bool]:
        """Yields True after each slice that is not the last."""
        engine, session, count = self._connection.engine, self._session, 0
        while self.due:
            entry, identifier = self.due.pop(next(iter(self.due)))
            if not self._wanted(entry):
                continue
            # They may be more than a queue takes, but each topic's waits once where it is full.
            waiting = {delivery.message.topic for _, delivery in session.queue if delivery.retain}
            for message in engine.retained.match(entry.topic_filter, engine.steady()):
                count += 1
                if count % _SLICE == 0:
                    yield True
                    if not self._wanted(entry):
                        break
                rights = engine.rights_of(session)
                if rights is None or not rights.may_receive(message.topic) or not engine.still_published(message):
                    continue
                qos = min(message.qos, entry.qos)
                if qos and message.topic in waiting and not session.has_room(message.size_bytes):
                    engine.sessions.deliveries.drop("queue_full")
                    continue
                waiting.add(message.topic)
                engine.offer(session, Delivery(message, qos, True, (identifier,) if identifier else ()))

    def _wanted(self, entry: Subscription) -> bool:
        """True while the subscription exists and its client can get messages."""
        session, connection = self._session, self._connection
        there = connection.engine.sessions.by_client_id.get(session.client_id) is session
        return there and entry.topic_filter in session.subscriptions and (session.kept or not connection.ended)
