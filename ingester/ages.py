"""Ages of stored things while the wall clock may be wrong: its steps, and which of them are confirmed. Pure.

The wall clock gives the time of receipt; only a clock that never steps gives the time since then. Both are read at
each look, and so every step is seen. `Ages` keeps three things:

- `expires_by`, the time by which old things are deleted: the wall clock, less the steps ahead that are not confirmed. A
  step is confirmed when the clock has run evenly for a while since. A step back cancels steps ahead.
  - `elapsed`, for things with a time to wait: it goes on evenly, however the clock is set.
  - `eras`: times of receipt while the wall clock was behind. Things received then are younger than these times.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ingester.clock import BELIEVED_FROM_US, is_believed

TOLERANCE_US = 2_000_000
"""A steered wall clock differs from an even one by at most this between two looks."""
CONFIRM_US = 3 * 86_400_000_000
"""Three days of running: a wrong clock may go unseen over a weekend."""
_ERA_US = 60_000_000
"""A clock that was behind by less than this makes no era."""
_ERAS = 64
_STEPS = 64


class Reading(NamedTuple):
    """Both clocks at one moment, in microseconds. `steady` never steps, and means nothing in another `boot`."""

    wall: int
    steady: int
    boot: str


class Era(NamedTuple):
    """Times of receipt from `first` to `last`, at which the wall clock was `behind` by these microseconds."""

    first: int
    last: int
    behind: int


Span = tuple[int, int]
"""First and last time of a range."""


@dataclass(slots=True)
class _Step:
    ahead: int
    """Microseconds; less than 0: back."""
    even: int = 0
    """Microseconds for which the clock has run evenly since."""
    span: Span | None = None
    """Times of receipt of before a step ahead: it says by how much they are behind."""


class Ages:
    """Begins with the `document` of an earlier run, empty for the first run. `written` is when the state was
    written last by the wall clock, for a state of before there was such a document; None: it is new.
    """

    def __init__(
        self,
        now: Reading,
        document: Mapping[str, Any] | None = None,
        *,
        written: int | None = None,
        confirm_us: int = CONFIRM_US,
    ) -> None:
        self._confirm_us = confirm_us
        known = dict(document or {})
        self._steps = [
            _Step(ahead, even, (span[0], span[1]) if span else None) for ahead, even, span in known.get("steps", [])
        ]
        self._eras = [Era(*era) for era in known.get("eras", [])]
        self._last = Reading(*known["last"]) if known else Reading(now.wall if written is None else written, 0, "")
        self._elapsed: int = known.get("elapsed", self._last.wall)
        self._since: int = known.get("since", now.wall)
        """Times of receipt from here on are of the wall clock as it runs now."""
        self._before: int = known.get("before", 0)
        """Its time before that."""
        self._new: int = known.get("new", 0 if written is None else confirm_us)
        """For how long there was one to look, up to CONFIRM_US: before, nobody knows that the clock was ever right."""
        if not known and written is None:
            self._last = now
        elif not known and is_believed(now.wall):
            # messages that an earlier version received in 1970: their age is unknown, so they are new
            self._eras.append(Era(0, BELIEVED_FROM_US - 1, now.wall))
        self.look(now)

    def look(self, now: Reading) -> int:
        """Read both clocks. Returns the step of the wall clock in microseconds, 0 for none.

        Across a boot there is nothing to tell a step from the time that it took: it is not confirmed at once.
        """
        booted = now.boot != self._last.boot
        passed = 0 if booted else max(0, now.steady - self._last.steady)
        even = self._last.wall + passed
        self._age(passed)
        if not is_believed(now.wall):  # as if it went on evenly
            self._last = Reading(even, now.steady, now.boot)
            self._elapsed += passed
            return 0
        step = now.wall - even
        self._elapsed += max(0, step) if booted else passed
        self._last = now
        if abs(step) <= TOLERANCE_US:
            return 0
        right_before = self._new >= self._confirm_us and all(one.ahead > 0 for one in self._steps)
        self._add(step, None if booted or even < self._since else (self._since, even))
        if not booted or step < 0 or right_before:
            self._since, self._before = now.wall, even
        return step

    def expires_by(self, steady: int) -> int:
        """The time by which old things are deleted; `steady` as of this boot."""
        unconfirmed = sum(step.ahead for step in self._steps if step.ahead > 0)
        return self._last.wall + max(0, steady - self._last.steady) - unconfirmed

    def sure(self, steady: int) -> int:
        """As `expires_by`; while there was none to look for long enough, the first time that is believed."""
        return self.expires_by(steady) if self._new >= self._confirm_us else BELIEVED_FROM_US

    def even(self, steady: int) -> int:
        """Now, as the wall clock would say had it not been set since the last look; never before it is believed."""
        return max(BELIEVED_FROM_US, self._last.wall + max(0, steady - self._last.steady))

    def elapsed(self, steady: int) -> int:
        """Now, by a clock that goes on evenly over all runs."""
        return self._elapsed + max(0, steady - self._last.steady)

    @property
    def unconfirmed_us(self) -> int:
        """Microseconds by which the wall clock is ahead of `expires_by`."""
        return sum(step.ahead for step in self._steps if step.ahead > 0)

    @property
    def last_set(self) -> tuple[int, int]:
        """The wall clock at its last step or at the start of the machine: the time after it, and the time before it."""
        return self._since, self._before

    @property
    def eras(self) -> Sequence[Era]:
        """Eras of confirmed steps, and of unconfirmed ones."""
        waiting = (Era(*step.span, step.ahead) for step in self._steps if step.span is not None)
        return [*self._eras, *waiting]

    def document(self) -> dict[str, Any]:
        """The document that a later run begins with, for JSON."""
        return {
            "last": list(self._last),
            "elapsed": self._elapsed,
            "since": self._since,
            "before": self._before,
            "new": self._new,
            "steps": [[step.ahead, step.even, step.span] for step in self._steps],
            "eras": [list(era) for era in self._eras],
        }

    def _age(self, passed: int) -> None:
        self._new = min(self._confirm_us, self._new + passed)
        for step in self._steps:
            step.even += passed
        self._confirm(lambda step: step.even >= self._confirm_us)

    def _confirm(self, wanted: Callable[[_Step], bool]) -> None:
        for step in self._steps:
            if wanted(step) and step.span is not None:
                self._note(step.span, step.ahead)
        self._steps = [step for step in self._steps if not wanted(step)]

    def _note(self, span: Span, behind: int) -> None:
        if behind >= _ERA_US:
            self._eras = [*self._eras, Era(*span, behind)][-_ERAS:]

    def _add(self, step: int, span: Span | None) -> None:
        """Opposite steps cancel each other, the newest first: times of receipt between them are in `span`."""
        whole = step
        while self._steps and (self._steps[-1].ahead > 0) != (step > 0):
            newest = self._steps[-1]
            both = newest.ahead + step
            if abs(both) > TOLERANCE_US and (both > 0) == (newest.ahead > 0):
                newest.ahead, step = both, 0
                break
            self._steps.pop()
            step = both if abs(both) > TOLERANCE_US else 0
            if not step:
                break
        if whole > 0 and span is not None and whole != step:
            self._note(span, whole - step)
        if abs(step) > TOLERANCE_US:
            self._steps.append(_Step(step, 0, span if step > 0 else None))
            self._confirm(lambda step: step.even >= self._confirm_us)
        if len(self._steps) > _STEPS:
            last, newest = self._steps[-2], self._steps.pop()
            last.ahead, last.even, last.span = last.ahead + newest.ahead, 0, newest.span or last.span


def spared(eras: Iterable[Era], cutoff: int) -> list[Span]:
    """Times of receipt that are before `cutoff` only because the wall clock was behind."""
    spans = ((max(era.first, cutoff - era.behind), min(era.last, cutoff - 1)) for era in eras)
    return [(first, last) for first, last in spans if first <= last]


def is_old(received: int, cutoff: int, spans: Iterable[Span]) -> bool:
    """Whether something was received before `cutoff`; `spans` are those that are spared."""
    return received < cutoff and not any(first <= received <= last for first, last in spans)
