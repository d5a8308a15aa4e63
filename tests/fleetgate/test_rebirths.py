"""Requests for missing births: one a node and time, counted by what became of them, and not for ever in a row."""

from prometheus_client import CollectorRegistry

from fleetgate.rebirths import Rebirths
from ingester.codecs.births import Births, Origin
from ingester.ledger import Ledger
from ingester.memory import MemoryStore
from ingester.pipeline import Pipeline
from ingester.source_mqtt import MqttSource, SourceConfig
from tests.sparkplug import payload
from tests.waiting import until

NODE, OTHER = Origin("", "d", "g", "n"), Origin("mqtt://h:1883", "d", "g", "n")


class Broker:
    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.subscribers = 1
        self.now = 1000.0

    async def publish(self, topic: str, data: bytes) -> int:
        self.published.append((topic, data))
        return self.subscribers

    def rebirths(self, births: Births, seconds: float = 30, sources: tuple[MqttSource, ...] = ()) -> Rebirths:
        return Rebirths(births, self.publish, sources, seconds, clock=lambda: 5_000_000, monotonic=lambda: self.now)


def counted(rebirths: Rebirths) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(rebirths)
    names = ("sent", "no_subscriber", "no_connection")
    found = {name: registry.get_sample_value("fleetgate_rebirth_requests_total", {"outcome": name}) for name in names}
    return {name: count for name, count in found.items() if count}


async def test_one_request_a_node_and_time():
    """As the specification has it; other nodes have requests of their own."""
    births, broker = Births(), Broker()
    async with broker.rebirths(births) as rebirths:
        for _ in range(100):
            births.wanted(NODE)
        births.wanted(NODE._replace(node="m"))
        await until(lambda: counted(rebirths) == {"sent": 2})
        about = {"name": "Node Control/Rebirth", "timestamp": 5000, "datatype": 11, "boolean_value": True}
        request = payload(about, seq=None, timestamp=5000)
        assert broker.published == [("spBv1.0/g/NCMD/n", request), ("spBv1.0/g/NCMD/m", request)]
        broker.now += 29
        births.wanted(NODE)
        broker.now += 32
        births.wanted(NODE)
        await until(lambda: counted(rebirths) == {"sent": 3})
    assert len(broker.published) == 3


async def test_a_node_that_is_not_born_is_asked_less_and_less():
    """Up to once an hour; as often as before when it was born in between."""
    births, broker = Births(), Broker()
    async with broker.rebirths(births, seconds=1000) as rebirths:
        asked = []
        for _ in range(40):
            births.wanted(NODE)
            broker.now += 500
            asked.append(sum(counted(rebirths).values()))
            await until(lambda: not rebirths._queue)
    times = [at * 500 for at in range(1, 40) if asked[at] > asked[at - 1]]
    assert times == [500, 1500, 3500, 7500, 11_500, 15_500, 19_500]


async def test_a_request_that_reaches_nobody_is_made_again_soon():
    """Not with each message: a node may subscribe a moment after it has sent something."""
    births, broker = Births(), Broker()
    broker.subscribers = 0
    async with broker.rebirths(births) as rebirths:
        births.wanted(NODE)
        await until(lambda: counted(rebirths) == {"no_subscriber": 1})
        births.wanted(NODE)
        broker.now += 1.5
        broker.subscribers = 1
        births.wanted(NODE)
        await until(lambda: counted(rebirths) == {"no_subscriber": 1, "sent": 1})


async def test_a_source_that_is_away():
    """Nodes of another broker are asked there and nowhere else."""
    births, broker = Births(), Broker()
    async with Pipeline(MemoryStore(), Ledger()) as pipeline:
        source = MqttSource(SourceConfig("mqtt://h:1883"), pipeline, Ledger())
        async with broker.rebirths(births, sources=(source,)) as rebirths:
            births.wanted(OTHER)
            births.wanted(OTHER._replace(source="mqtt://gone:1883"))
            await until(lambda: counted(rebirths) == {"no_connection": 2})
    assert broker.published == []


async def test_switched_off():
    """No request is made."""
    births, broker = Births(), Broker()
    async with broker.rebirths(births, seconds=0) as rebirths:
        births.wanted(NODE)
    assert counted(rebirths) == {}
    assert broker.published == []


async def test_many_nodes_at_once():
    """Each is asked, a few at a time; what waits is bounded."""
    births, broker = Births(), Broker()
    async with broker.rebirths(births) as rebirths:
        for number in range(10_050):
            births.wanted(NODE._replace(device=str(number)))
            births.wanted(NODE._replace(node=str(number)))
        assert len(rebirths._queue) == 10_000
        assert sum(origin.device == "d" for origin in rebirths._queue) == 256
        await until(lambda: len(broker.published) > 30)
