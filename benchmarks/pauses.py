"""How long a loop was held up, and for how much of it the machine itself stood still."""

import asyncio
import gc
import os
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.processes import process

_SHORT = 0.001
"""Seconds of a pause that needs no explanation."""
_LONG = 0.005

Times = list[tuple[float, float]]
"""Starts and ends, seconds of time.monotonic(), which all processes share."""


class Pauses:
    """Notes how long the loop was held up at the most, while it runs as a task."""

    longest = 0.0

    def __init__(self) -> None:
        self._due, self._went_on = array("d"), array("d")
        self._no_core = array("d")
        """Of each pause, how long the loop was ready to go on, but other processes had all cores."""
        self._collections: Times = []

    async def watch(self) -> None:
        """Run until cancelled."""
        statistics = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        gc.callbacks.append(self._collecting)
        try:
            waited = _no_core(statistics)
            while True:
                due = time.monotonic() + 0.001
                await asyncio.sleep(0.001)
                went_on = time.monotonic()
                waited_before, waited = waited, _no_core(statistics)
                self._due.append(due)
                self._went_on.append(went_on)
                self._no_core.append(waited - waited_before)
                self.longest = max(self.longest, went_on - due)
        finally:
            gc.callbacks.remove(self._collecting)
            os.close(statistics)

    def described(self, stalls: Times) -> str:
        """How many there were, the longest, and what is left of them without the machine's part."""
        pauses = [went_on - due for due, went_on in zip(self._due, self._went_on, strict=True)]
        own = [
            max(0.0, pause - no_core - _within(due, due + pause, stalls)) if pause > _SHORT else pause
            for due, pause, no_core in zip(self._due, pauses, self._no_core, strict=True)
        ]
        return (
            f"{_described(pauses)}; without waits for a core and stalls of the machine: {_described(own)};"
            f" collections of garbage: {_described(_lengths(self._collections))};"
            f" stalls of the machine: {_described(_lengths(stalls))}"
        )

    def _collecting(self, phase: str, _info: dict[str, int]) -> None:
        now = time.monotonic()
        if phase == "start":
            self._collections.append((now, now))
        elif self._collections:
            self._collections[-1] = (self._collections[-1][0], now)


@contextmanager
def stalls() -> Iterator[Times]:
    """When a core of the machine ran nothing in the block; filled at its end, and only for root."""
    found: Times = []
    if os.geteuid():
        print("whether the machine stood still is known to root only")
        yield found
        return
    command = [sys.executable, "-m", "benchmarks.stalls"]
    with ExitStack() as stack:
        watching = [stack.enter_context(process([*command, str(core)]))[0] for core in os.sched_getaffinity(0)]
        try:
            yield found
        finally:
            for watch in watching:
                printed, _ = watch.communicate()
                found += [(float(start), float(end)) for start, end in map(str.split, printed.splitlines())]
            found.sort()


def _described(pauses: list[float]) -> str:
    ordered = sorted(pauses) or [0.0]
    of = [f"p{share} {ordered[int(len(ordered) * share / 100)] * 1000:.1f} ms" for share in (50, 99, 99.9)]
    over = sum(pause > _LONG for pause in pauses)
    return f"{', '.join(of)}, longest {ordered[-1] * 1000:.1f} ms, {over} of {len(pauses):,} over 5 ms"


def _lengths(times: Times) -> list[float]:
    return [end - start for start, end in times]


def _within(start: float, end: float, times: Times) -> float:
    """Seconds between `start` and `end` that are within one of `times`, which are in order."""
    covered, until = 0.0, start
    for since, then in times:
        covered += max(0.0, min(end, then) - max(until, since))
        until = max(until, then)
    return covered


def _no_core(statistics: int) -> float:
    """Seconds that a thread was ready to run but had no core, so far [Linux, Documentation/scheduler/sched-stats]."""
    return int(os.pread(statistics, 128, 0).split()[1]) / 1e9
