"""What of the engine's state outlives the process: sessions, subscriptions, queues, retained messages, in SQLite.

Changes are written in groups, one transaction and one fsync a group; who has promised something waits for its group.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import aiosqlite
import structlog

from broker_plugins.engine.errors import EngineError
from broker_plugins.engine.message import Delivery, Message, Stage
from broker_plugins.engine.packets import Subscription
from broker_plugins.engine.properties import read_properties, write_properties
from broker_plugins.engine.session import Granted, QueueLimits, Session
from broker_plugins.engine.wire import Reader

log = structlog.get_logger("fleetgate.mqtt")

VERSION = 2
_MIGRATIONS = {
    1: """
CREATE TABLE sessions (client_id TEXT PRIMARY KEY, owner TEXT NOT NULL, expiry INTEGER NOT NULL, ended INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE subscriptions (
    client_id TEXT NOT NULL, topic_filter TEXT NOT NULL, qos INTEGER NOT NULL, no_local INTEGER NOT NULL,
    retain_as_published INTEGER NOT NULL, retain_handling INTEGER NOT NULL, identifier INTEGER NOT NULL,
    PRIMARY KEY (client_id, topic_filter)) WITHOUT ROWID;
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY, client_id TEXT NOT NULL, came INTEGER NOT NULL, qos INTEGER NOT NULL,
    retain INTEGER NOT NULL, identifiers TEXT NOT NULL, packet_id INTEGER NOT NULL, stage INTEGER NOT NULL,
    topic TEXT NOT NULL, payload BLOB NOT NULL, message_qos INTEGER NOT NULL, message_retain INTEGER NOT NULL,
    properties BLOB NOT NULL, expires INTEGER, sender TEXT NOT NULL);
CREATE INDEX deliveries_of ON deliveries (client_id);
CREATE TABLE received (client_id TEXT NOT NULL, packet_id INTEGER NOT NULL, PRIMARY KEY (client_id, packet_id))
    WITHOUT ROWID;
CREATE TABLE retained (
    topic TEXT PRIMARY KEY, payload BLOB NOT NULL, qos INTEGER NOT NULL, properties BLOB NOT NULL, expires INTEGER,
    sender TEXT NOT NULL);
""",
    2: "ALTER TABLE retained ADD COLUMN owner TEXT NOT NULL DEFAULT '';",
}
_OF_A_SESSION = ("sessions", "subscriptions", "deliveries", "received")
_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
_GROUP = 5000
_PENDING = 50_000
_CLOSE_SECONDS = 2.0

Statement = tuple[str, tuple[Any, ...]]


class SessionStoreError(EngineError):
    """The file can't be used: made by a newer version, or unreadable."""


class SessionStore:
    """Writes changes behind the engine's back, in order. An async context manager around the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: aiosqlite.Connection | None = None
        self._pending: list[Statement | Callable[[], None]] = []
        self._committing = False
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._next_row = 1
        self.changes = 0
        """How many changes there were so far: what was not changed since need not be waited for."""
        self.failing: str | None = None
        """Why it can't write now; None while it can."""

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(_migrate, self._path)
        self._database = await aiosqlite.connect(self._path, isolation_level=None, timeout=1)
        try:
            await self._database.execute("PRAGMA synchronous=FULL")
        except BaseException:
            await self._database.close()  # it has a thread, which would outlive the process
            raise
        self._task = asyncio.create_task(self._run(), name="session-store")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._wake.set()
        if self._task is not None:
            try:
                await asyncio.wait([self._task], timeout=_CLOSE_SECONDS)
            finally:  # it took too long, or a second signal interrupts the wait
                if not self._task.done():
                    log.error("sessions not written", changes=len(self._pending), store=self.failing)
                    self._task.cancel()
                    await asyncio.wait([self._task])
        if self._database is not None:
            await self._database.close()

    @property
    def full(self) -> bool:
        """Whether so much waits to be written that nothing more should be taken."""
        return len(self._pending) >= _PENDING

    def when_written(self, callback: Callable[[], None], since: int = -1) -> None:
        """Call back once all that was changed so far is on disk; at once when it is, or when nothing was changed since
        `changes` had the value `since`.
        """
        if self.changes != since and (self._pending or self._committing):
            self._pending.append(callback)
        else:
            callback()

    def session(self, session: Session) -> None:
        """A session is new or changed in expiry or end."""
        self._change(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)",
            session.client_id, session.owner, session.expiry, session.ended,
        )  # fmt: skip

    def forget(self, client_id: str) -> None:
        """A session is over."""
        for table in _OF_A_SESSION:
            self._change(f"DELETE FROM {table} WHERE client_id = ?", client_id)

    def subscribed(self, client_id: str, granted: Granted) -> None:
        """A subscription is new or replaced."""
        options = granted.options
        self._change(
            "INSERT OR REPLACE INTO subscriptions VALUES (?, ?, ?, ?, ?, ?, ?)",
            client_id, options.topic_filter, options.qos, options.no_local, options.retain_as_published,
            options.retain_handling, granted.identifier,
        )  # fmt: skip

    def unsubscribed(self, client_id: str, topic_filter: str) -> None:
        """A subscription is gone."""
        self._change("DELETE FROM subscriptions WHERE client_id = ? AND topic_filter = ?", client_id, topic_filter)

    def delivery(self, client_id: str, came: int, delivery: Delivery) -> None:
        """A delivery is to be kept until `delivered`; sets its row."""
        message = delivery.message
        delivery.row, self._next_row = self._next_row, self._next_row + 1
        self._change(
            "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            delivery.row, client_id, came, delivery.qos, delivery.retain,
            ",".join(map(str, delivery.identifiers)), delivery.packet_id, int(delivery.stage),
            message.topic, message.payload, message.qos, message.retain, write_properties(message.properties),
            message.expires, message.sender,
        )  # fmt: skip

    def advanced(self, delivery: Delivery) -> None:
        """A kept delivery came further."""
        if delivery.row:
            self._change(
                "UPDATE deliveries SET packet_id = ?, stage = ? WHERE id = ?",
                delivery.packet_id, int(delivery.stage), delivery.row,
            )  # fmt: skip

    def delivered(self, delivery: Delivery) -> None:
        """A delivery is over, one way or the other."""
        if delivery.row:
            self._change("DELETE FROM deliveries WHERE id = ?", delivery.row)
            delivery.row = 0

    def received(self, client_id: str, packet_id: int) -> None:
        """A QoS 2 message was taken, and not released yet."""
        self._change("INSERT OR REPLACE INTO received VALUES (?, ?)", client_id, packet_id)

    def released(self, client_id: str, packet_id: int) -> None:
        """A QoS 2 message was released."""
        self._change("DELETE FROM received WHERE client_id = ? AND packet_id = ?", client_id, packet_id)

    def retained(self, message: Message) -> None:
        """A retained message is new or replaced."""
        self._change(
            "INSERT OR REPLACE INTO retained VALUES (?, ?, ?, ?, ?, ?, ?)",
            message.topic, message.payload, message.qos, write_properties(message.properties), message.expires,
            message.sender, message.owner,
        )  # fmt: skip

    def unretained(self, topic: str) -> None:
        """A retained message is gone."""
        self._change("DELETE FROM retained WHERE topic = ?", topic)

    async def sessions(self, limits: QueueLimits) -> list[Session]:
        """All sessions with their subscriptions and deliveries, as they were written.

        What belongs to no session is passed over.
        """
        found: dict[str, Session] = {}
        for client_id, owner, expiry, ended in await self._read("SELECT * FROM sessions"):
            session = found[client_id] = Session(client_id, owner, limits, expiry)
            session.ended = ended
        for client_id, *row in await self._read("SELECT * FROM subscriptions"):
            granted = Granted(Subscription(row[0], row[1], bool(row[2]), bool(row[3]), row[4]), row[5])
            if client_id in found:
                found[client_id].subscriptions[row[0]] = granted
        for client_id, packet_id in await self._read("SELECT * FROM received"):
            if client_id in found:
                found[client_id].received.add(packet_id)
        for client_id, came, delivery in map(_delivery, await self._read("SELECT * FROM deliveries ORDER BY id")):
            self._next_row = delivery.row + 1
            if client_id in found:
                found[client_id].restore(came, delivery)
        return list(found.values())

    async def retained_messages(self) -> Iterator[Message]:
        """All retained messages."""
        rows = await self._read("SELECT * FROM retained")
        return (_message(topic, payload, qos, True, *rest) for topic, payload, qos, *rest in rows)

    async def _read(self, statement: str) -> list[Any]:
        if self._database is None:
            raise RuntimeError("the session store is used outside its context")
        return list(await self._database.execute_fetchall(statement))

    def _change(self, statement: str, *values: Any) -> None:
        self.changes += 1
        self._pending.append((statement, values))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            if not self._pending:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            group, self._pending = self._pending[:_GROUP], self._pending[_GROUP:]
            self._committing = True
            await self._commit([entry for entry in group if isinstance(entry, tuple)])
            self._committing = False
            for entry in group:
                if not isinstance(entry, tuple):
                    self._call(entry)

    def _call(self, callback: Callable[[], None]) -> None:
        """Supervision point: what one callback does wrong stops nobody else."""
        try:
            callback()
        except Exception:
            log.exception("callback failed")

    async def _commit(self, statements: list[Statement]) -> None:
        attempt = 0
        while statements:
            try:
                await self._write(statements)
            except sqlite3.Error as error:
                if self.failing is None:
                    log.error("sessions can't be written", error=str(error))
                self.failing = str(error)
                await asyncio.sleep(_BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)])
                attempt += 1
            else:
                self.failing = None
                return

    async def _write(self, statements: list[Statement]) -> None:
        database = self._database
        if database is None:
            raise RuntimeError("the session store is used outside its context")
        connection = database._conn  # noqa: SLF001 - one hop to its thread for a group, not one a statement

        def write() -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for statement, values in statements:
                    connection.execute(statement, values)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

        await database._execute(write)  # type: ignore[no-untyped-call]  # noqa: SLF001 - tests/contracts


def _delivery(row: tuple[Any, ...]) -> tuple[str, int, Delivery]:
    row_id, client_id, came, qos, retain, identifiers, packet_id, stage, *message = row
    numbers = tuple(int(number) for number in identifiers.split(",") if number)
    topic, payload, message_qos, message_retain, properties, expires, sender = message
    whole = _message(topic, payload, message_qos, bool(message_retain), properties, expires, sender)
    return client_id, came, Delivery(whole, qos, bool(retain), numbers, row_id, packet_id, Stage(stage))


def _message(
    topic: str,
    payload: bytes,
    qos: int,
    retain: bool,
    properties: bytes,
    expires: int | None,
    sender: str,
    owner: str = "",
) -> Message:
    return Message(topic, payload, qos, retain, read_properties(Reader(properties), "publish"), expires, sender, owner)


def _migrate(path: Path) -> None:
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    except sqlite3.Error as error:
        raise SessionStoreError(f"{path}: {error}") from error
    try:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode=WAL")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > VERSION:
            raise SessionStoreError(f"{path} has schema {found}; this fleetgate knows up to {VERSION}")
        for version in range(found + 1, VERSION + 1):
            # One script in one transaction: a kill at any point leaves the version before.
            connection.executescript(f"BEGIN IMMEDIATE; {_MIGRATIONS[version]} PRAGMA user_version={version}; COMMIT;")
    except sqlite3.Error as error:
        raise SessionStoreError(f"{path}: {error}") from error
    finally:
        connection.close()
