"""Operations: long work with progress."""

import asyncio

import pytest

from fleet.errors import NotFoundError
from fleetgate.errors import ArgumentError
from fleetgate.operations import Operations, OperationState
from tests.waiting import until


async def test_a_fault_is_an_end_too():
    """It is logged, and nobody waits for ever."""

    async def broken(_operation):
        raise RuntimeError("secret")

    async with Operations() as operations:
        found = operations.start("test", 1, broken)
        await until(lambda: found.state is not OperationState.RUNNING)
        assert (found.state, found.problem) == (OperationState.FAILED, "an error of ours; the log has it")


async def test_only_so_many_run_and_only_the_last_are_kept():
    """Those that run are cancelled at the end."""
    ended = []

    async def endless(operation):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(operation.id)

    async def quick(operation):
        operation.advance(1)
        return {}

    async with Operations() as operations:
        first = operations.start("test", 1, quick)
        await until(lambda: first.state is OperationState.DONE)
        for _ in range(100):
            last = operations.start("test", 1, quick)
            await until(lambda last=last: last.state is OperationState.DONE)
        with pytest.raises(NotFoundError):
            operations.get(first.id)
        assert operations.get(last.id).done == 1
        running = [operations.start("test", 1, endless).id for _ in range(4)]
        with pytest.raises(ArgumentError, match="4 operations"):
            operations.start("test", 1, endless)
        await asyncio.sleep(0)
    assert sorted(ended) == sorted(running)
