"""Watches the event loop from a thread of its own, and the wall clock: who holds the loop up, and when time jumps."""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = structlog.get_logger("fleetgate")

_BEAT_SECONDS = 0.25
BLOCKED_SECONDS = 1.0
STEP_SECONDS = 2.0
_FRAMES = 4


class Watchdog(Collector):
    """A context manager: watches the loop that it is entered on. Also the metrics of what it saw.

    The loop beats; a thread looks whether it did. When it did not for BLOCKED_SECONDS, the frames that the loop is in
    are logged once, and how long it took once it goes on. A wall clock that moved against the monotonic one by more
    than STEP_SECONDS between two beats was set: logged and counted. No timer of ours depends on it.
    """

    def __init__(self) -> None:
        self.blocked = 0
        """Times that the loop was held up."""
        self.blocked_seconds = 0.0
        self.clock_steps = 0
        self._beat = 0.0
        self._offset = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._loops_thread = 0
        self._caught = False

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loops_thread = threading.get_ident()
        self._offset = time.time() - time.monotonic()
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._on_beat()
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def collect(self) -> Iterable[Metric]:
        """What was seen so far."""
        yield CounterMetricFamily("fleetgate_loop_blocked", "Times that the event loop was held up.", self.blocked)
        yield CounterMetricFamily(
            "fleetgate_loop_blocked_seconds", "Seconds that the event loop was held up, in all.", self.blocked_seconds
        )
        yield CounterMetricFamily("fleetgate_clock_steps", "Times that the wall clock was set.", self.clock_steps)
        tasks = len(asyncio.all_tasks(self._loop)) if self._loop is not None else 0
        yield GaugeMetricFamily("fleetgate_tasks", "Tasks of the event loop.", tasks)

    def _on_beat(self) -> None:
        now = time.monotonic()
        if self._caught:
            took, self._caught = now - self._beat, False
            self.blocked += 1
            self.blocked_seconds += took
            log.warning("the loop goes on", blocked_seconds=round(took, 2))
        self._beat = now
        offset = time.time() - now
        if abs(offset - self._offset) > STEP_SECONDS:
            self.clock_steps += 1
            log.warning("the wall clock was set", by_seconds=round(offset - self._offset, 1))
        self._offset = offset
        if self._loop is not None:
            self._handle = self._loop.call_later(_BEAT_SECONDS, self._on_beat)

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._stop.wait(_BEAT_SECONDS):
            now, before = time.monotonic(), looked
            looked = now
            if now - before > 2 * _BEAT_SECONDS:
                continue  # this thread was stopped as well: the process was, or the machine
            if not self._caught and now - self._beat > BLOCKED_SECONDS:
                self._caught = True
                log.error("the loop is held up", at=self._where())

    def _where(self) -> list[str]:
        frame = sys._current_frames().get(self._loops_thread)  # noqa: SLF001 - the only way to look at another thread
        found = traceback.extract_stack(frame)[-_FRAMES:]
        return [f"{line.filename}:{line.lineno} {line.name}" for line in reversed(found)]
