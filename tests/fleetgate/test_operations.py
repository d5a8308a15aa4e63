"""Operations: long work with progress."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from fleet.audit.model import Act, Via
from fleet.audit.service import Asked, AuditLog
from fleet.authority import Authority
from fleet.errors import NotFoundError, StateError
from fleet.registry import Registry
from fleetgate.errors import ArgumentError
from fleetgate.operations import Operations, OperationState
from tests.waiting import until

ACT = Act("anna", "backup.make", Via.API, facts={"file": "/x"})


class SlowLog(AuditLog):
    """Writes the end of what was begun when it is let."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.ending, self.let = asyncio.Event(), asyncio.Event()

    async def end(self, *arguments) -> None:
        self.ending.set()
        await self.let.wait()
        await super().end(*arguments)


@pytest.fixture
def opened(tmp_path):
    @asynccontextmanager
    async def opening(kind=AuditLog):
        authority = Authority(tmp_path / "pki", "test", 30)
        async with Registry(tmp_path / "fleet.db") as registry, kind(registry.database, authority) as log:
            yield log

    return opening


async def entries(log: AuditLog) -> list[dict]:
    return [entry.said for entry in await log.find(Asked(), None, 10)]


async def test_a_fault_is_an_end_too(opened):
    """It is logged, and nobody waits for ever."""

    async def broken(_operation):
        raise RuntimeError("secret")

    async with opened() as log, Operations(log) as operations:
        found = operations.start("test", 1, broken, await log.begin(ACT))
        await until(lambda: found.state is not OperationState.RUNNING)
        assert (found.state, found.problem) == (OperationState.FAILED, "an error of ours; the log has it")


async def test_what_came_of_it_is_in_the_audit_log_before_it_is_said(opened):
    """Who waits for the end of an operation finds its entry: one."""

    async def full(_operation):
        raise StateError("no room")

    async def quick(_operation):
        return {}

    async with opened(SlowLog) as log, Operations(log) as operations:
        found = operations.start("test", 1, full, await log.begin(ACT))
        await log.ending.wait()
        assert (found.state, found.problem) == (OperationState.RUNNING, None)
        log.let.set()
        await until(lambda: found.state is OperationState.FAILED)
        done = operations.start("test", 1, quick, await log.begin(ACT))
        await until(lambda: done.state is OperationState.DONE)
        newest, first = await entries(log)
        assert (first["outcome"], first["detail"]) == ("failed", "no room")
        assert first["facts"] == {"file": "/x", "operation": found.id}
        assert (newest["outcome"], newest["facts"]["operation"]) == ("done", done.id)
    async with opened() as log:
        assert len(await entries(log)) == 2


async def test_what_was_interrupted_is_in_the_audit_log(opened):
    """After the next start."""

    async def endless(_operation):
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    async with opened() as log, Operations(log) as operations:
        operations.start("test", 1, endless, await log.begin(ACT))
        await begun.wait()
    async with opened() as log:
        (entry,) = await entries(log)
        assert (entry["outcome"], entry["facts"]) == ("interrupted", {"file": "/x"})
        assert (await log.verify()).fault is None


async def test_only_so_many_run_and_only_the_last_are_kept(opened):
    """Those that run are cancelled at the end."""
    ended, begun = [], []

    async def endless(operation):
        begun.append(operation.id)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(operation.id)

    async def quick(operation):
        operation.advance(1)
        return {}

    async with opened() as log, Operations(log) as operations:
        first = operations.start("test", 1, quick, await log.begin(ACT))
        await until(lambda: first.state is OperationState.DONE)
        for _ in range(100):
            last = operations.start("test", 1, quick, await log.begin(ACT))
            await until(lambda last=last: last.state is OperationState.DONE)
        with pytest.raises(NotFoundError):
            operations.get(first.id)
        assert operations.get(last.id).done == 1
        running = [operations.start("test", 1, endless, await log.begin(ACT)).id for _ in range(4)]
        begun_last = await log.begin(ACT)
        with pytest.raises(ArgumentError, match="4 operations"):
            operations.start("test", 1, endless, begun_last)
        await until(lambda: len(begun) == 4)
    assert sorted(ended) == sorted(running)
