"""Messages that stop the work on all of them: found and put into quarantine, so that the rest goes on."""

import errno
import sqlite3
from collections.abc import Awaitable, Callable

import structlog

from ingester.batch import Quarantined
from ingester.bisection import find_failing
from ingester.clock import now_us
from ingester.decode import DecodeError, microseconds
from ingester.errors import StoreTooNew, StoreUnavailable
from ingester.history.catalogue import Catalogue
from ingester.history.model import SOUND, Culprit, DamagedError, Job
from ingester.process import Worker, WorkerLostError
from ingester.sqlite import SqliteStore

log = structlog.get_logger("fleetgate.store")

Trial = Callable[[tuple[int, int], int | None], Awaitable[object]]
"""Does the work with a part (see Job.part) of its messages, or of those of one journal row, and undoes it. Raises what
the work raises.
"""

_JOURNAL = "ingester.history.journal"
_OUTSIDE = (StoreUnavailable, StoreTooNew, OSError, sqlite3.Error, ImportError, DamagedError)
"""A full disk, an unreachable database, a program that is being replaced: no message is the cause."""
_NAMES = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})
"""Errors of the system that a chosen name may cause."""
_LOST = (WorkerLostError, MemoryError)
"""The machine or a message may be the cause: repetition shows which."""
_LOSSES = 3
_AT_ONCE = 50
"""Messages that are set aside before the work is done again as a whole."""
_DETAIL_LETTERS = 300


def is_outside(error: Exception) -> bool:
    """Whether neither a message nor a file can be the cause."""
    return isinstance(error, _OUTSIDE) and getattr(error, "errno", None) not in _NAMES


class Losses:
    """Tells errors that what is worked on may be blamed for from those of the machine; one that has lost the process is
    among them when that happened again and again.
    """

    def __init__(self) -> None:
        self._count = 0

    def of_the_data(self, error: Exception) -> bool:
        """Whether to look for the messages that make the work fail."""
        if isinstance(error, _LOST):
            self._count += 1
            return self._count >= _LOSSES
        return not is_outside(error)

    def forget(self) -> None:
        """The work was done."""
        self._count = 0


class Culprits:
    """Finds them for one kind of work of `worker`; `reason` is what they are in quarantine for."""

    def __init__(self, worker: Worker, reason: str, journal: SqliteStore, catalogue: Catalogue) -> None:
        self._worker = worker
        self.reason = reason
        self._journal = journal
        self._catalogue = catalogue
        self._losses = Losses()
        self._doubts = 0
        """Searches in a row that found no failing message."""
        self._most: int | None = None
        self.set_aside = 0
        """Messages that were set aside in this run."""

    def at_most(self, most: int) -> int:
        """Messages to work on at once: fewer than `most` after messages that fail only together."""
        return most if self._most is None else min(self._most, most)

    def went_well(self) -> None:
        """The work was done."""
        self._losses.forget()
        self._doubts = 0
        if self._most is not None:
            self._most *= 2

    async def blame(
        self, error: Exception, job: Callable[[], Awaitable[Job]], trial: Trial, *, elsewhere: bool = False
    ) -> None:
        """The work failed: set aside the messages that it fails for, so that it can be done again at once; or let it be
        done with fewer messages, where each of them is fine by itself. Raises `error` where no message can be blamed.

        `job` has all messages of the work. `elsewhere`: they are in another store too, so they only leave the journal.
        """
        if not self._losses.of_the_data(error):
            raise error
        work = await job()
        found = await self._find(work, trial, error)
        try:
            await trial(SOUND, None)
        except Exception as other:
            raise error from other  # it fails with any message
        for position in reversed(found):  # those before it stay where they are
            culprit: Culprit = await self._worker.call(f"{_JOURNAL}:culprit_of", work, position)
            # Rows may be deleted meanwhile, for their age or with their device: this is still the one that fails.
            if (why := await self._why(trial, culprit.part, culprit.row[0])) is not None:
                await self._set_aside(culprit, why, elsewhere)

    async def _find(self, work: Job, trial: Trial, error: Exception) -> list[int | None]:
        """Positions of messages that fail; None: all of the first row."""

        async def fails(start: int, stop: int) -> bool:
            return await self._why(trial, (start, stop)) is not None

        count: int = await self._worker.call(f"{_JOURNAL}:count_messages", work)
        if not count or not await fails(0, count):
            self._doubts += 1
            if self._doubts > 1:
                raise error  # each trial goes well, and the work does not
            return []
        found: list[int | None] = list(await find_failing(count, fails, _AT_ONCE))
        if not found:
            if work.most <= 1:
                return [None]
            self._most = max(1, min(work.most, count) // 2)
            log.warning("messages fail only together: fewer at once", work=self.reason, messages=self._most)
        return found

    async def _why(self, trial: Trial, part: tuple[int, int], row: int | None = None) -> str | None:
        """The reason why a trial fails; a message that ends the process is tried twice."""
        why = None
        for _ in range(2 if part[1] - part[0] == 1 else 1):
            try:
                await trial(part, row)
            except _LOST as error:
                why = f"the worker process ends with it: {error}"
            except Exception as error:
                if is_outside(error):
                    raise
                return f"{type(error).__name__}: {error}".splitlines()[0][:_DETAIL_LETTERS]
            else:
                return None
        return why

    async def _set_aside(self, culprit: Culprit, why: str, elsewhere: bool) -> None:
        device, stream = culprit.row[1:3]
        kept = [
            Quarantined(_time(received), device, stream, self.reason, why, payload)
            for received, payload in culprit.messages
        ]
        await self._catalogue.remember(culprit.remembered)
        await self._journal.set_aside(culprit.row, culprit.left, [] if elsewhere else kept)
        self.set_aside += len(kept)
        log.error(
            "a message is set aside", work=self.reason, device=device, stream=stream, why=why, elsewhere=elsewhere
        )


def _time(received: int) -> int:
    """A time of receipt as it can be shown: now, where a damaged row has none of the calendar."""
    try:
        return microseconds(received)
    except DecodeError:
        return now_us()
