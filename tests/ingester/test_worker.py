"""The worker process, when nobody asks it any more."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
