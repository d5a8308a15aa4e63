"""Asks the process, within bounds, and stops it when it takes too long."""

import asyncio
import os
import pickle
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import orjson

from fleet.identity import Kind
from fleet.presence import Presence
from fleet.registry import Inventory, Registry
from fleetgate.analytics.question import Answer, Bounds, Form, Question
from fleetgate.errors import ArgumentError
from ingester.child import Child
from ingester.history.store import TieredStore

_AT_ONCE = 2
_SLICE = 500
_DEVICES = "devices"
"""A question that does not say this word is not about them, and they are many."""
_ENVIRONMENT = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
"""What the process gets of ours: no passphrase, no token."""


class QuestionError(ArgumentError):
    """A question that is not answered; the message says why."""


class Analytics:
    """SQL of people and programs. At most two questions are answered at a time; others wait for their turn."""

    def __init__(
        self,
        store: TieredStore,
        registry: Registry,
        inventory: Inventory,
        presence: Presence,
        *,
        elsewhere: bool = False,
    ) -> None:
        self._elsewhere = elsewhere
        """Whether telemetry is in a database that is asked itself."""
        self._store = store
        self._registry = registry
        self._inventory = inventory
        self._presence = presence
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def ask(
        self,
        sql: str,
        form: Form,
        bounds: Bounds,
        window: tuple[int, int] | None = None,
        chosen: Sequence[str] = (),
    ) -> Answer:
        """The answer to one SELECT; `window` is what $since and $until stand for in it, `chosen` are the names in a
        table that is called so. Raises QuestionError.
        """
        if self._elsewhere:
            raise QuestionError("telemetry is in PostgreSQL: ask there, fleetgate.messages and fleetgate.readings")
        async with self._turns:
            with self._store.reading() as snapshot:
                question = Question(
                    sql,
                    form,
                    bounds,
                    self._store.folder.parent / "journal.db",
                    self._store.folder,
                    snapshot.until,
                    snapshot.files,
                    snapshot.rollups,
                    await self._devices() if _DEVICES in sql.lower() else {name: [] for name in _COLUMNS},
                    window,
                    list(chosen),
                    self._store.rules(),
                )
                answer = await ask_process(question)
        if answer.error:
            raise QuestionError(answer.error)
        return answer

    async def _devices(self) -> dict[str, list[Any]]:
        members = [member for member in self._registry.all()[0] if member.kind is Kind.DEVICE]
        members.sort(key=lambda member: member.name)
        columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        for start in range(0, len(members), _SLICE):
            part = members[start : start + _SLICE]
            details = await self._inventory.details([member.name for member in part])
            for member in part:
                known = details.get(member.name)
                if known is None:
                    continue  # deleted meanwhile
                values = (
                    member.name, known.display_name, known.type, known.site, str(member.state), list(known.tags),
                    orjson.dumps(dict(known.attributes)).decode(), self._presence.connected(member.name),
                    self._presence.last_seen(member.name), member.created,
                )  # fmt: skip
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
        return columns


_COLUMNS = (
    "name", "display_name", "type", "site", "state", "tags", "attributes", "connected", "last_seen", "created",
)  # fmt: skip


async def ask_process(question: Question) -> Answer:
    """Start the process, and wait for its answer as long as the question may take. Raises QuestionError."""
    process = await Child.start(
        [sys.executable, "-m", "fleetgate.analytics.child"],
        environment={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        quiet=True,
    )
    try:
        async with asyncio.timeout(question.bounds.seconds):
            output = await _communicate(process, await asyncio.to_thread(pickle.dumps, question))
    except TimeoutError:
        raise QuestionError(f"more than {question.bounds.seconds:g} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    if process.returncode or not output:
        raise QuestionError(f"it took too much memory, or failed (exit status {process.returncode})")
    # Not pickled: whatever SQL may have made of that process, its answer is data.
    about, _, data = output.partition(b"\n")
    found = orjson.loads(about)
    return Answer(data, int(found["rows"]), str(found["error"]))


async def _communicate(process: Child, data: bytes) -> bytes:
    """Tell it all, and hear all that it says until its end."""
    with suppress(ConnectionError):  # it ended before it had heard it all
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()
    output = await process.stdout.read()
    await process.wait()
    return output
