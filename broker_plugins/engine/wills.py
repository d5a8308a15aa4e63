"""Wills that wait for their delay to pass [3.1.3.2.2]. Synchronous; told what time it is."""

from broker_plugins.engine.message import Message
from broker_plugins.engine.schedule import Schedule


class Wills:
    """Delayed wills by client id: due in order of time, unless the client is back before."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[str, Message]] = {}
        self._schedule = Schedule()

    def put(self, client_id: str, owner: str, message: Message, due: float) -> None:
        """A will is to be published at `due` (monotonic seconds)."""
        self._waiting[client_id] = (owner, message)
        self._schedule.put(client_id, due)

    def take(self, client_id: str) -> tuple[str, Message] | None:
        """The client is back, or its session is over: (owner, will), which waits no more [MQTT-3.1.3-9]."""
        self._schedule.drop(client_id)
        return self._waiting.pop(client_id, None)

    def drop(self, owner: str) -> None:
        """An identity is gone: its wills are not published."""
        for client_id in [found for found, (left_by, _) in self._waiting.items() if left_by == owner]:
            self.take(client_id)

    def due(self, now: float) -> list[tuple[str, Message]]:
        """(owner, will) of those whose delay has passed."""
        return [self._waiting.pop(client_id) for client_id in self._schedule.due(now)]
