"""The worker process, when nobody asks it any more."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until

GATE = """
import asyncio, sys, time
from ingester.process import Worker

async def main():
    async with Worker(0) as worker:
        await worker.call("builtins:str", "it is there")
        call = asyncio.create_task(worker.call(sys.argv[1], *eval(sys.argv[2])))
        await asyncio.sleep(0.2)
        print(worker._process.pid, flush=True)
        await call

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("function", "arguments"),
    [("time:sleep", "(100,)"), ("timeit:timeit", "('pass', 'pass', time.perf_counter, 10**11)")],
)
async def test_it_ends_with_who_was_killed(function, arguments):
    """In the middle of what it does."""
    gate = subprocess.Popen([sys.executable, "-c", GATE, function, arguments], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(await asyncio.to_thread(gate.stdout.readline))
        assert b"ingester.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    finally:
        gate.send_signal(signal.SIGKILL)
        gate.wait()
        gate.stdout.close()
    await until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes(), 5)
