"""Requests for the births of Sparkplug's edge nodes, where one is missing: through our own broker, or through the one
that their messages are read from.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import NamedTuple, Self

import structlog
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ingester.clock import Clock, now_us
from ingester.codecs.births import Births, Origin
from ingester.codecs.sparkplug import rebirth_request, rebirth_topic
from ingester.periodic import Background, Every
from ingester.source_mqtt import MqttSource

log = structlog.get_logger("fleetgate.rebirths")

Publish = Callable[[str, bytes], Awaitable[int]]
"""Publish a payload to a topic with QoS 0; how many subscribers there are."""

_NODES = 100_000
_QUEUE, _QUEUE_OF_DEVICE = 10_000, 256
_ROUND_SECONDS, _AT_ONCE = 0.1, 10
"""At most 100 a second: each is answered with births."""
_AGAIN_SECONDS = 1
"""Pause after a request without a subscriber, or while the other broker is away."""
_MOST_SECONDS = 3600
"""Between requests that are not answered: a broker may end the connection of a client that is not allowed to ask."""
_OUTCOMES = ("sent", "no_subscriber", "no_connection")


class _Asked(NamedTuple):
    """A request: no other one before `until` (monotonic seconds), which was `pause` seconds later."""

    until: float
    pause: float


_NEVER = _Asked(-inf, 0)


class Rebirths(Collector):
    """Requests for births. An async context manager.

    A node is asked once in `seconds` (0: never), and less often as long as it does not do as it is asked.
    """

    def __init__(
        self,
        births: Births,
        publish: Publish,
        sources: Sequence[MqttSource],
        seconds: float,
        *,
        background: Background | None = None,
        clock: Clock = now_us,
        monotonic: Callable[[], float],
    ) -> None:
        self._births = births
        self._publish = publish
        self._sources = sources
        self._seconds = seconds
        self._clock = clock
        self._monotonic = monotonic
        self._asked: OrderedDict[Origin, _Asked] = OrderedDict()
        self._queue: deque[Origin] = deque()
        self._queued: Counter[tuple[str, str]] = Counter()
        self._wake = asyncio.Event()
        self._requests: Counter[str] = Counter(dict.fromkeys(_OUTCOMES, 0))
        self._every = Every(
            "birth_requests", _ROUND_SECONDS, self._round, woken=self._wake, later=True, background=background
        )

    async def __aenter__(self) -> Self:
        self._births.wanted = self.want
        await self._every.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._every.__aexit__()

    def want(self, origin: Origin) -> None:
        """A birth of a node is missing. Quick, for it is called for each message that comes without."""
        now, last = self._monotonic(), self._asked.get(origin, _NEVER)
        if not self._seconds or now < last.until:
            return
        if len(self._queue) >= _QUEUE or self._queued[origin[:2]] >= _QUEUE_OF_DEVICE:
            return
        answered = now > last.until + last.pause
        self._hold(origin, self._seconds if answered else min(2 * last.pause, _MOST_SECONDS))
        self._queue.append(origin)
        self._queued[origin[:2]] += 1
        self._wake.set()

    async def _round(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._queue))):
            origin = self._queue.popleft()
            self._queued[origin[:2]] -= 1
            if not self._queued[origin[:2]]:
                del self._queued[origin[:2]]
            outcome = await self._ask(origin)
            self._requests[outcome] += 1
            if outcome != "sent":
                self._hold(origin, min(_AGAIN_SECONDS, self._seconds))
            log.info("births requested", node=f"{origin.group}/{origin.node}", device=origin.device, outcome=outcome)
        if self._queue:
            self._wake.set()

    async def _ask(self, origin: Origin) -> str:
        message = rebirth_topic(origin.group, origin.node), rebirth_request(self._clock())
        if not origin.source:
            return "sent" if await self._publish(*message) else "no_subscriber"
        for source in self._sources:
            if source.name == origin.source and await source.publish(*message):
                return "sent"
        return "no_connection"

    def _hold(self, origin: Origin, seconds: float) -> None:
        self._asked[origin] = _Asked(self._monotonic() + seconds, seconds)
        self._asked.move_to_end(origin)
        if len(self._asked) > _NODES:
            self._asked.popitem(last=False)

    def collect(self) -> Iterable[Metric]:
        """The requests by outcome."""
        family = CounterMetricFamily(
            "fleetgate_rebirth_requests", "Requests for the births of Sparkplug nodes.", labels=["outcome"]
        )
        for outcome, count in self._requests.items():
            family.add_metric([outcome], count)
        yield family
