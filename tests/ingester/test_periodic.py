"""Background work that goes on after failures, and what is known of it."""

import asyncio

import pytest
from structlog.testing import capture_logs

from ingester.periodic import Background, Every
from tests.waiting import until


class ManualTime:
    """A clock in microseconds, and pauses that end when it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.pauses: list[float] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def clock(self) -> int:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if seconds:
            found = asyncio.get_running_loop().create_future()
            self._waiting.append((self.now + int(seconds * 1e6), found))
            await found

    async def move(self, seconds: float) -> None:
        """Let time pass, and everything that is due then go as far as it comes."""
        self.now += int(seconds * 1e6)
        due = [found for at, found in self._waiting if at <= self.now]
        self._waiting = [(at, found) for at, found in self._waiting if at > self.now]
        for found in due:
            if not found.done():
                found.set_result(None)
        for _ in range(10):
            await asyncio.sleep(0)


class Rounds:
    """Work that fails as often as it is given errors, one a round."""

    def __init__(self, *errors: Exception | None, wanted: float | None = None) -> None:
        self.errors = list(errors)
        self.wanted = wanted
        self.done = 0

    async def __call__(self) -> float | None:
        self.done += 1
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        return self.wanted


def every(work, time, seconds=5.0, **options):
    return Every("work", seconds, work, clock=time.clock, pause=time.pause, **options)


async def test_work_is_done_at_once_and_every_so_many_seconds():
    """The first round is at once, the next ones follow the seconds after the end of the one before."""
    time, work = ManualTime(), Rounds()
    async with every(work, time):
        await time.move(0)
        assert work.done == 1
        await time.move(4.9)
        assert work.done == 1
        await time.move(0.1)
        assert work.done == 2
    await time.move(60)
    assert work.done == 2


async def test_later_work_waits_first():
    """With `later` nothing is done before the seconds have passed."""
    time, work = ManualTime(), Rounds()
    async with every(work, time, later=True):
        await time.move(0)
        await time.move(4)
        assert work.done == 0
        await time.move(1)
        assert work.done == 1


async def test_work_says_when_it_goes_on():
    """Seconds that a round returns are those until the next round."""
    time, work = ManualTime(), Rounds(wanted=0.5)
    async with every(work, time):
        await time.move(0)
        await time.move(0.5)
        assert work.done == 2


async def test_work_is_woken_by_an_event():
    """With an event, a round is done the seconds after it was set, once for all that set it meanwhile."""
    time, work, woken = ManualTime(), Rounds(), asyncio.Event()
    async with every(work, time, woken=woken):
        await time.move(60)
        assert work.done == 0
        woken.set()
        await time.move(0)
        woken.set()
        await time.move(5)
        assert work.done == 1
        assert not woken.is_set()


async def test_a_woken_round_that_failed_is_done_again_by_itself():
    """What a failed round was woken for is not forgotten."""
    time, work, woken = ManualTime(), Rounds(OSError("full")), asyncio.Event()
    async with every(work, time, woken=woken, failures=(OSError,), again_seconds=1):
        woken.set()
        await time.move(0)
        await time.move(5)
        assert work.done == 1
        await time.move(1)
        assert work.done == 2
        assert not woken.is_set()


@pytest.mark.parametrize("error", [OSError("disk full"), ZeroDivisionError("a mistake")], ids=["known", "unknown"])
async def test_a_failure_ends_nothing(error):
    """Known and unknown errors are survived, counted with the moment of the first one, and forgotten by a success."""
    time, background = ManualTime(), Background()
    work = Rounds(error, error)
    async with every(work, time, failures=(OSError,), again_seconds=1, background=background):
        await time.move(0)
        (health,) = background.failing()
        assert (health.work, health.failures, health.since, health.succeeded) == ("work", 1, 1_000_000, None)
        assert str(error) in health.error
        await time.move(1)
        assert (health.failures, health.since) == (2, 1_000_000)
        await time.move(1)
        assert not background.failing()
        assert (health.failures, health.failures_total, health.since, health.error) == (0, 2, None, "")
        assert health.succeeded == 3_000_000


async def test_known_failures_are_a_line_and_unknown_ones_have_a_traceback():
    """Of failures in a row the 1st, 2nd, 4th... are logged, and that it goes on."""
    time = ManualTime()
    with capture_logs() as lines:
        async with every(Rounds(*[OSError("full")] * 5), time, 1, failures=(OSError,)):
            for _ in range(7):
                await time.move(1)
    assert [(line["event"], line["failures"]) for line in lines] == [
        *(("background work failed, it is tried again", count) for count in (1, 2, 4)),
        ("background work succeeds again", 5),
    ]
    assert not any(line.get("exc_info") for line in lines)
    with capture_logs() as lines:
        async with every(Rounds(ZeroDivisionError("a mistake")), time):
            await time.move(0)
    assert isinstance(lines[0]["exc_info"], ZeroDivisionError)


async def test_an_error_without_words_is_named_by_its_type():
    """The reason is never empty."""
    time, background = ManualTime(), Background()
    async with every(Rounds(TimeoutError()), time, failures=(TimeoutError,), background=background):
        await time.move(0)
        assert background.failing()[0].error == "TimeoutError()"


async def test_a_round_is_ended_in_the_middle():
    """Leaving the block cancels the round that is going on, and waits until it has ended."""
    begun, ended = asyncio.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async with Every("work", 1, work) as one:
        assert one.running
        await begun.wait()
    assert ended
    assert not one.running


async def test_starting_twice_and_stopping_twice_is_harmless():
    """There is one task at most; what was never started can be stopped."""
    work = Rounds()
    one = Every("work", 60, work)
    await one.stop()
    one.start()
    one.start()
    await until(lambda: work.done == 1)
    await one.stop()
    await one.stop()
    assert work.done == 1


def test_work_that_is_made_again_goes_on_with_what_is_known():
    """One name is one line in the list, in the order of names."""
    background = Background()
    first = background.add("seal")
    background.add("merge")
    assert background.add("seal") is first
    assert [health.work for health in background.all()] == ["merge", "seal"]
