"""The program's clocks: the wall clock, and those that things expire by, kept over restarts in a file of the state."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet.files import write_private
from fleet.state import StateFolder
from ingester.ages import CONFIRM_US, Ages, Era, Reading
from ingester.clock import Clock, believed, clock_problem, is_believed, now_us
from ingester.periodic import Background, Every

log = structlog.get_logger("fleetgate")

LOOK_SECONDS = 2.0
_SAVE_US = 600_000_000
_SAID_US = 3_600_000_000
"""A step ahead by less than this is not worth a line of its own."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_UPTIME = Path("/proc/uptime")


def since_boot_us() -> int:
    """Microseconds since the machine was started, those that it slept included: as the kernel says, in hundredths of a
    second, as what sets the clocks of a process does not reach that.
    """
    try:
        return int(float(_UPTIME.read_text().split()[0]) * 1e6)
    except (OSError, ValueError, IndexError):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def this_boot() -> str:
    """A name that every start of the machine has for itself."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return f"process at {time.monotonic_ns()}"  # as if the machine had been started


class Timekeeping(Collector):
    """Looks at the clocks every `look_seconds`. An async context manager; also the metric of what is not confirmed."""

    def __init__(
        self,
        state: StateFolder,
        *,
        wall: Clock = now_us,
        steady: Clock = since_boot_us,
        boot: Callable[[], str] = this_boot,
        confirm_us: int = CONFIRM_US,
        look_seconds: float = LOOK_SECONDS,
        background: Background | None = None,
    ) -> None:
        self._path = state.clock_file
        self._clock = wall
        self._steady = steady
        self._boot = boot()
        self._confirm_us = confirm_us
        self._saved = 0
        self.wall = believed(self._even, wall)
        """For what is stored with its time: it goes on evenly while the wall clock is not believed."""
        document, written = self._read(), None
        if document is None:
            written = _written(state)
        self._ages = Ages(self._now(), document, written=written, confirm_us=confirm_us)
        self._every = Every("clock", look_seconds, self._look, failures=(OSError,), background=background)

    async def __aenter__(self) -> Self:
        if (ahead := self._ages.unconfirmed_us) >= _SAID_US:
            self._say(ahead)
        self._try_save()
        await self._every.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._every.__aexit__(kind, error, trace)
        self._ages.look(self._now())
        self._try_save()

    def problem(self) -> str | None:
        """The reason why the clock is not believed; None: it is believed."""
        now = self._clock()
        return None if is_believed(now) else f"{clock_problem(now)}: certificates can't be judged"

    def expires_by(self) -> int:
        """Now, for what is deleted by its age: behind the wall clock while a step of it is not confirmed."""
        return self._ages.expires_by(self._steady())

    def sure(self) -> int:
        """A time that has surely come, whatever the wall clock said at the first start and since."""
        return self._ages.sure(self._steady())

    def elapsed(self) -> int:
        """Now, for what waits: even, over restarts as well, whatever the wall clock does."""
        return self._ages.elapsed(self._steady())

    def eras(self) -> Sequence[Era]:
        """Times at which the wall clock was behind."""
        return self._ages.eras

    def last_set(self) -> tuple[int, int]:
        """See Ages.last_set."""
        return self._ages.last_set

    def collect(self) -> Iterable[Metric]:
        """The metric of steps ahead that are not confirmed."""
        yield GaugeMetricFamily(
            "fleetgate_clock_unconfirmed_seconds",
            "Seconds by which the wall clock was set ahead and that are not confirmed yet.",
            self._ages.unconfirmed_us / 1e6,
        )

    def _even(self) -> int:
        return self._ages.even(self._steady())

    async def _look(self) -> None:
        now = self._now()
        step = self._ages.look(now)
        if step >= _SAID_US:
            self._say(step)
        if step or not self._saved <= now.steady < self._saved + _SAVE_US:
            self._save()

    def _say(self, ahead: int) -> None:
        log.warning(
            "the wall clock was set ahead: nothing expires by the step until it is confirmed",
            ahead_seconds=ahead // 1_000_000,
            confirmed_after_hours=self._confirm_us / 3.6e9,
        )

    def _now(self) -> Reading:
        return Reading(self._clock(), self._steady(), self._boot)

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path.read_text())
            Ages(self._now(), found)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("the known steps of the clock can't be read", path=str(self._path), error=str(error))
            return None
        return found or None

    def _try_save(self) -> None:
        """Save; a full disk prevents neither a start nor a stop."""
        try:
            self._save()
        except OSError as error:
            log.error("the known steps of the clock can't be written", path=str(self._path), error=str(error))

    def _save(self) -> None:
        write_private(self._path, json.dumps(self._ages.document()).encode() + b"\n")
        self._saved = self._steady()


def unconfirmed(state: StateFolder) -> timedelta:
    """The unconfirmed step ahead that the program with this state last saw."""
    try:
        steps = json.loads(state.clock_file.read_text())["steps"]
        return timedelta(microseconds=sum(max(0, ahead) for ahead, *_ in steps))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return timedelta()


def _written(state: StateFolder) -> int | None:
    """When a state folder of an earlier version was written last; None: it is new."""
    databases = (state.fleet_db, state.mqtt_db, state.telemetry / "journal.db")
    files = [file for path in databases for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
    return max((file.stat().st_mtime_ns // 1000 for file in files), default=None)
