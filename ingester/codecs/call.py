"""A codec in Python: an entry point of the group `fleetgate.codecs`, called with a time budget.

It takes (payload, topic) and returns an object or an array of objects, as JSON would have them. A Python function that
takes too long is interrupted; one that waits inside a C function can't be. One that is too slow again and again is left
alone for a while, for meanwhile nobody else is served.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from types import FrameType
from typing import Any

from ingester.codecs.model import Codec, Context, OptionError, Options, Parsed, objects
from ingester.decode import DecodeError

GROUP = "fleetgate.codecs"
_OVERRUNS = 3
_REST_SECONDS = 10.0


class _OverrunError(BaseException):
    """The budget is used up; not an Exception, so that the callable does not catch it with its own."""


class _Call:
    def __init__(
        self, name: str, function: Callable[[bytes, str], Any], seconds: float, monotonic: Callable[[], float]
    ) -> None:
        self._name = name
        self._function = function
        self._seconds = seconds
        self._monotonic = monotonic
        self._overruns = 0
        self._resting_until = 0.0

    def parse(self, payload: bytes, context: Context) -> list[Parsed]:
        if self._overruns >= _OVERRUNS:
            if self._monotonic() < self._resting_until:
                raise DecodeError("budget", f"{self._name} was too slow {self._overruns} times: not called for a while")
            self._overruns -= 1
        try:
            with _budget(self._seconds):
                value = self._function(payload, context.topic)
        except _OverrunError:
            self._overruns += 1
            self._resting_until = self._monotonic() + _REST_SECONDS
            raise DecodeError("budget", f"{self._name} took more than {self._seconds * 1000:g} ms") from None
        except Exception as error:  # noqa: BLE001 - it is not ours: whatever it raises is what is wrong with the message
            raise DecodeError("callable", f"{self._name}: {type(error).__name__}: {str(error)[:150]}") from None
        self._overruns = 0
        return objects(value, "an object", context.limits.max_depth)


@contextmanager
def _budget(seconds: float) -> Iterator[None]:
    """Interrupt the block when it takes longer. Only the main thread can be; the loop runs there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(_signal: int, _frame: FrameType | None) -> None:
        raise _OverrunError

    before = signal.signal(signal.SIGALRM, over)
    try:
        others = signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, *others)  # a timer of somebody else goes on
    finally:
        signal.signal(signal.SIGALRM, before)


def make(options: Options, monotonic: Callable[[], float] = time.monotonic) -> Codec:
    """Build the codec of an entry point. Raises OptionError."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if options.callable not in found:
        known = ", ".join(sorted(found)) or "none is installed"
        raise OptionError(f"callable: no entry point {options.callable!r} in the group {GROUP}: {known}")
    try:
        function = found[options.callable].load()
    except Exception as error:  # noqa: BLE001 - importing somebody else's module can raise anything
        raise OptionError(f"callable: {options.callable}: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise OptionError(f"callable: {options.callable} is {type(function).__name__}, not a function")
    return _Call(options.callable, function, options.budget_seconds, monotonic)
