"""Child processes: pipes to and fro, their end, and none that is left."""

import asyncio
import sys
from pathlib import Path

import pytest

from ingester.child import Child
from tests.waiting import until

ECHO = [sys.executable, "-c", "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read().upper())"]
FOR_EVER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(3600)"]


def children() -> list[str]:
    """Processes that this one has started."""
    return [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


async def test_it_hears_and_says():
    """More than a pipe holds, either way."""
    child = await Child.start(ECHO, environment={"LANG": "C"})
    child.stdin.write(b"a" * 5_000_000)
    child.stdin.close()
    assert await child.stdout.read() == b"A" * 5_000_000
    assert (await child.wait(), child.returncode) == (0, 0)


async def test_it_is_ended():
    """By a signal; who is ended twice stays so."""
    child = await Child.start(FOR_EVER)
    assert (await child.stdout.readline(), child.returncode) == (b"here\n", None)
    child.kill()
    assert await child.wait() == -9
    child.kill()
    assert str(child.pid) not in children()


async def test_one_that_is_not_waited_for_is_not_left():
    """Who starts it is cancelled meanwhile, at one moment or another."""
    before = set(children())
    for turns in range(12):
        starting = asyncio.create_task(Child.start(FOR_EVER))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        if starting.cancel():
            with pytest.raises(asyncio.CancelledError):
                await starting
        else:
            child = await starting
            child.kill()
            await child.wait()
        await until(lambda: set(children()) <= before, what="nothing is left")


async def test_a_program_that_is_not_there():
    """An error of the system."""
    with pytest.raises(FileNotFoundError):
        await Child.start(["/nowhere/program"])
