"""Operations: long work that goes on after its request was answered, with progress, and what came of it."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

import structlog

from fleet.audit.model import Outcome, Result
from fleet.audit.service import AuditLog, Begun
from fleet.errors import FleetError, NotFoundError
from fleet.registry.database import FAILURES
from fleetgate.errors import ArgumentError
from ingester.clock import Clock, now_us
from ingester.errors import IngestError

log = structlog.get_logger("fleetgate.operations")

_KEPT = 100
_RUNNING = 4


class OperationState(StrEnum):
    """Where an operation is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass
class Operation:
    """Long work. `done` of `total` steps; `result` is there at the end, `problem` when it failed."""

    id: str
    kind: str
    created: int
    total: int
    begun: Begun
    """Who asked for it, as the audit log has noted it."""
    done: int = 0
    state: OperationState = OperationState.RUNNING
    result: dict[str, Any] | None = None
    problem: str | None = None

    def advance(self, done: int) -> None:
        """So many steps are done."""
        self.done = done


def no_operation(found: str) -> NotFoundError:
    """There is none of that id, or none for whoever asks."""
    return NotFoundError(f"no operation {found!r}")


Work = Callable[[Operation], Awaitable[dict[str, Any]]]


class Operations:
    """The operations of this run, the last ones. An async context manager: at its end those that run are cancelled.

    What came of one is in the audit log before it is said here; that a stop or a crash interrupted it, after the next
    start.
    """

    def __init__(self, audit: AuditLog, clock: Clock = now_us) -> None:
        self._audit = audit
        self._clock = clock
        self._operations: dict[str, Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended: list[Callable[[Operation], None]] = []
        """Called with each operation that came to its end."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def start(self, kind: str, total: int, work: Work, begun: Begun) -> Operation:
        """Begin; what `work` returns is the result. Raises ArgumentError when too many run."""
        if len(self._tasks) >= _RUNNING:
            raise ArgumentError(f"{_RUNNING} operations run already: wait for one of them")
        found = secrets.token_hex(8)
        act = replace(begun.act, facts={**begun.act.facts, "operation": found})
        operation = Operation(found, kind, self._clock(), total, replace(begun, act=act))
        self._operations[operation.id] = operation
        while len(self._operations) > _KEPT:
            del self._operations[next(iter(self._operations))]
        task = asyncio.get_running_loop().create_task(self._run(operation, work), name=f"operation-{kind}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return operation

    def get(self, found: str) -> Operation:
        """One operation; raises NotFoundError."""
        if found not in self._operations:
            raise no_operation(found)
        return self._operations[found]

    async def _run(self, operation: Operation, work: Work) -> None:
        problem = None
        try:
            operation.result = await work(operation)
        except (FleetError, IngestError) as error:
            problem = str(error)
        except Exception:
            # Supervision point: the traceback is for the log, not for the client.
            log.exception("operation failed", kind=operation.kind)
            problem = "an error of ours; the log has it"
        result = Result(Outcome.DONE) if problem is None else Result(Outcome.FAILED, "failed", problem)
        try:
            await self._audit.end(operation.begun, result)
        except FAILURES as error:
            log.warning("not in the audit log", operation=operation.id, error=str(error))
        operation.problem = problem
        operation.state = OperationState.DONE if problem is None else OperationState.FAILED
        for ended in self.ended:
            ended(operation)
