"""What people put behind a broker: a paho subscriber that writes to SQLite in batches of 5,000.

`python -m benchmarks.paho_to_sqlite PORT FILE` prints a line when it has subscribed, and on SIGUSR1 how many it stored.
"""

import signal
import sqlite3
import sys
import time
from typing import Any

from paho.mqtt import client as mqtt

_ROWS = 5000
_SECONDS = 0.1


class Writer:
    """Collects rows, and commits them: durably, as ours does."""

    def __init__(self, path: str) -> None:
        self.stored = 0
        self._rows: list[tuple[str, float, bytes]] = []
        self._db = sqlite3.connect(path)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE messages (topic TEXT, received REAL, payload BLOB)")
        self._written = time.monotonic()

    def add(self, topic: str, payload: bytes) -> None:
        """Take one message."""
        self._rows.append((topic, time.time(), payload))
        if len(self._rows) >= _ROWS:
            self.commit()

    def commit(self) -> None:
        """Write what is there."""
        if self._rows:
            self._db.executemany("INSERT INTO messages VALUES (?, ?, ?)", self._rows)
            self._db.commit()
            self.stored += len(self._rows)
            self._rows = []
        self._written = time.monotonic()

    def tick(self) -> None:
        """Write what has waited long enough."""
        if time.monotonic() - self._written >= _SECONDS:
            self.commit()


def main(port: int, path: str) -> None:
    """Subscribe to everything, and write it."""
    writer = Writer(path)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="writer")

    def on_message(_client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        writer.add(message.topic, message.payload)

    client.on_message = on_message
    client.on_subscribe = lambda *_: print("subscribed", flush=True)
    client.on_connect = lambda *_: client.subscribe("devices/#", qos=1)
    client.connect("127.0.0.1", port)
    signal.signal(signal.SIGUSR1, lambda *_: print(writer.stored, flush=True))
    while client.loop(timeout=_SECONDS) == mqtt.MQTT_ERR_SUCCESS:
        writer.tick()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
