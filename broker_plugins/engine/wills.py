"""Wills that wait for their delay to pass [3.1.3.2.2]. Synchronous; told what time it is."""

import heapq

from broker_plugins.engine.message import Message


class Wills:
    """Delayed wills by client id: due in order of time, unless the client is back before."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[float, str, Message]] = {}
        self._due: list[tuple[float, str]] = []

    def put(self, client_id: str, owner: str, message: Message, due: float) -> None:
        """A will is to be published at `due` (monotonic seconds)."""
        self._waiting[client_id] = (due, owner, message)
        heapq.heappush(self._due, (due, client_id))

    def cancel(self, client_id: str) -> None:
        """The client is back in time [MQTT-3.1.3-9]."""
        self._waiting.pop(client_id, None)

    def take(self, client_id: str) -> tuple[str, Message] | None:
        """The session is over, and with it the delay: (owner, will)."""
        found = self._waiting.pop(client_id, None)
        return None if found is None else found[1:]

    def due(self, now: float) -> list[tuple[str, Message]]:
        """(owner, will) of those whose delay has passed."""
        found = []
        while self._due and self._due[0][0] <= now:
            due, client_id = heapq.heappop(self._due)
            if client_id in self._waiting and self._waiting[client_id][0] == due:
                found.append(self._waiting.pop(client_id)[1:])
        return found
