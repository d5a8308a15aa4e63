"""The worker process, when nobody asks it any more."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingester.process import Worker, WorkerLostError
from tests.waiting import until

GATE = """
import asyncio, sys
from ingester.process import Worker

async def main():
    async with Worker(0) as worker:
        await worker.call("builtins:exec", sys.argv[1])

asyncio.run(main())
"""
WORK = "import os, time; open({path!r}, 'w').write(str(os.getpid())); {forever}"


@pytest.mark.parametrize("forever", ["time.sleep(100)", "all(True for _ in iter(int, 1))"])
async def test_it_ends_with_who_was_killed(tmp_path: Path, forever: str):
    """In the middle of what it does, whether it waits or works."""
    begun = tmp_path / "pid"
    gate = subprocess.Popen([sys.executable, "-c", GATE, WORK.format(path=str(begun), forever=forever)])
    try:
        await until(lambda: begun.exists() and begun.read_text(), 10)
        command = Path(f"/proc/{begun.read_text()}/cmdline")
        assert b"ingester.worker" in command.read_bytes()
    finally:
        gate.send_signal(signal.SIGKILL)
        gate.wait()
    await until(lambda: not command.exists() or not command.read_bytes(), 5)


class NeedsTwoError(Exception):
    """Made of two values, it can't be made again of its text: as errors of some libraries."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def fail(how: str) -> object:
    """Raise an error that can't be taken to another process, or return what can't."""
    if how == "error":
        raise NeedsTwoError("a", "b")
    return lambda: None


async def test_what_cannot_be_taken_to_another_process_is_an_error_in_words():
    """The process lives on, and the error says what it was."""
    async with Worker(0) as worker:
        with pytest.raises(RuntimeError, match="NeedsTwoError: ab"):
            await worker.call(f"{__name__}:fail", "error")
        pid = worker._process.pid
        with pytest.raises(RuntimeError, match="function"):
            await worker.call(f"{__name__}:fail", "result")
        assert worker._process.pid == pid


async def test_a_process_that_hangs_is_lost():
    """After its seconds it is ended, and the next call has another one."""
    async with Worker(0, 1) as worker:
        with pytest.raises(WorkerLostError, match="no answer within 1 seconds"):
            await worker.call("time:sleep", 60)
        worker._seconds = 60
        assert await worker.call("builtins:abs", -1) == 1
        await worker.rest()
        assert worker._process is None
