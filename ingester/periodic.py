"""Background work: repeated at an interval, continued after failures, and its health.

`Every` owns the task; `Background` is the list of all of them that readiness, `doctor` and metrics show.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

import structlog

from ingester.clock import Clock, now_us

log = structlog.get_logger("fleetgate.background")

Work = Callable[[], Awaitable[float | None]]
"""One round of work; returns the seconds until the next one, None: the usual ones."""
Pause = Callable[[float], Awaitable[object]]

_ERROR_LETTERS = 300


@dataclass(slots=True)
class Health:
    """The health of one kind of work. Times in microseconds since 1970-01-01 UTC."""

    work: str
    failures_total: int = 0
    failures: int = 0
    """Failed rounds since the last success; 0: it does not fail."""
    since: int | None = None
    """When the first of these failed."""
    error: str = ""
    """The error of the last of these."""
    succeeded: int | None = None
    """Time of the last success; None: there was none."""

    def succeed(self, now: int) -> None:
        """Record a successful round."""
        if self.failures:
            log.info("background work succeeds again", work=self.work, failures=self.failures)
        self.failures, self.since, self.error, self.succeeded = 0, None, "", now

    def fail(self, error: BaseException, now: int, *, known: bool) -> None:
        """Record a failed round. Of many failures in a row the 1st, 2nd, 4th, 8th... are logged."""
        self.failures_total += 1
        self.failures += 1
        self.since = self.since or now
        words = (str(error) or repr(error)) if known else repr(error)
        self.error = words[:_ERROR_LETTERS].encode("utf-8", "backslashreplace").decode()
        if self.failures & (self.failures - 1) == 0:
            log.warning(
                "background work failed, it is tried again",
                work=self.work,
                error=self.error,
                failures=self.failures,
                exc_info=None if known else error,
            )


class Background:
    """All background work of one program, by name."""

    def __init__(self) -> None:
        self._known: dict[str, Health] = {}

    def add(self, work: str) -> Health:
        """The health of a kind of work: one that is stopped and made again goes on with what is known of it."""
        return self._known.setdefault(work, Health(work))

    def all(self) -> Sequence[Health]:
        """All of it, by name."""
        return [self._known[work] for work in sorted(self._known)]

    def failing(self) -> Sequence[Health]:
        """Work of which the last round failed, by name."""
        return [health for health in self.all() if health.failures]


class Every:
    """Does `work` every `seconds`. An async context manager, which owns the task; or `start` and `stop`.

    A round begins `seconds` after the one before has ended, and rounds never overlap. The first one begins at once, or
    after `seconds` with `later`. With `woken`, a round begins `seconds` after this event was set, which is cleared just
    before. `work` may return other seconds for the next pause.

    A round that raises is tried again after `again_seconds` (None: `seconds`), for ever: one of `failures` is expected
    and logged as a line, anything else with its traceback. Both are in `health`, which `background` lists.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        work: Work,
        *,
        failures: tuple[type[Exception], ...] = (),
        again_seconds: float | None = None,
        later: bool = False,
        woken: asyncio.Event | None = None,
        background: Background | None = None,
        clock: Clock = now_us,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self.name = name
        self.health = (background or Background()).add(name)
        self._seconds = seconds
        self._work = work
        self._failures = failures
        self._again_seconds = seconds if again_seconds is None else again_seconds
        self._later = later
        self._woken = woken
        self._clock = clock
        self._pause = pause
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._task is not None

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """End it, in the middle of a round if there is one. Harmless when it was never started."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def once(self) -> float:
        """One round now: the seconds until the next. Raises nothing but cancellation."""
        try:
            wanted = await self._work()
        except self._failures as error:
            self.health.fail(error, self._clock(), known=True)
        except Exception as error:  # noqa: BLE001 - supervision point: `fail` logs it with its traceback and counts it
            self.health.fail(error, self._clock(), known=False)
        else:
            self.health.succeed(self._clock())
            return self._seconds if wanted is None else wanted
        if self._woken is not None:
            self._woken.set()
        return self._again_seconds

    async def _run(self) -> None:
        rest = self._seconds if self._later or self._woken is not None else 0.0
        while True:
            if self._woken is not None:
                await self._woken.wait()
            await self._pause(rest)
            if self._woken is not None:
                self._woken.clear()
            rest = await self.once()
