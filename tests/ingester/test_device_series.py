"""Which devices have series of their own, and their text."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ingester.device_series import COUNTERS, GAUGES, DeviceSeries, text
from ingester.ledger import OTHER, Ledger


class Reference:
    """The same families, as prometheus-client writes them, from the ledger."""

    def __init__(self, ledger: Ledger, shown: list[str], other) -> None:
        self._rows = [(name, ledger.accounts[name]) for name in shown]
        self._other = other

    def collect(self):
        for position, (name, documentation) in enumerate(COUNTERS):
            family = CounterMetricFamily(name.removesuffix("_total"), documentation, labels=["device"])
            for device, a in self._rows:
                family.add_metric([device], (a.received, a.received_bytes, a.rejected)[position])
            if self._other is not None:
                family.add_metric([OTHER], self._other[position])
            yield family
        for position, (name, documentation) in enumerate(GAUGES):
            family = GaugeMetricFamily(name, documentation, labels=["device"])
            for device, a in self._rows:
                family.add_metric([device], (min(a.connections, 1), a.last_seen / 1e6)[position])
            yield family


def scrape(series: DeviceSeries, now: int) -> dict[str, int]:
    """Messages by device, `_other` included."""
    for _ in series.refresh(now):
        pass
    snapshot = series.snapshot()
    names = [label.removeprefix('{device="').removesuffix('"}') for label in snapshot.labels]
    found = dict(zip(names, snapshot.messages, strict=True))
    return found if snapshot.other is None else {**found, OTHER: snapshot.other[0]}


def receive(ledger: Ledger, device: str, count: int, now: int) -> None:
    for _ in range(count):
        ledger.received(device, 0, 10, now)


def test_the_text_is_prometheus_clients():
    """Line for line, whatever the names and numbers."""
    ledger = Ledger()
    odd = ["plain", 'quote"d', "back\\slash", "new\nline", "{}", "%s", "ключ", "../x", "_other2", " "]
    for number, name in enumerate([*odd, *(f"d{n}" for n in range(1200))]):
        receive(ledger, name, number % 7, 1_795_392_000_123_456 + number)
        ledger.received(name, 0, 10**number if number < 20 else number, 1_795_392_000_123_456)
    ledger.rejected("plain", "not_authorized")
    ledger.connected("plain", 5)
    series = DeviceSeries(ledger, 1100, 10**18)
    for _ in series.refresh(1_795_392_000_000_000):
        pass
    snapshot = series.snapshot()
    assert len(snapshot.labels) == 1100
    assert series.not_shown == 110
    registry = CollectorRegistry()
    registry.register(Reference(ledger, ledger.opened[:1100], snapshot.other))
    assert "".join(text(snapshot)) == generate_latest(registry).decode()


def test_the_ceiling_and_what_is_beyond_it():
    """No more series than the ceiling; the rest is in _other, counted, and the sum is exact."""
    ledger = Ledger()
    for name in "abcd":
        receive(ledger, name, 3, 100)
    series = DeviceSeries(ledger, 2, 1000)
    assert scrape(series, 100) == {"a": 3, "b": 3, OTHER: 6}
    assert series.not_shown == 2


def test_counters_never_go_back():
    """A device that leaves adds its counts to _other, one that comes back goes on where it was; _other only grows."""
    ledger = Ledger()
    series = DeviceSeries(ledger, 1, 1000)
    receive(ledger, "a", 5, 100)
    assert scrape(series, 100) == {"a": 5}
    receive(ledger, "b", 2, 200)
    assert scrape(series, 200) == {"a": 5, OTHER: 2}
    assert scrape(series, 1150) == {"b": 2, OTHER: 7}  # a went silent, b took its place: in _other, b's 2 stay
    receive(ledger, "b", 1, 1160)
    receive(ledger, "a", 1, 1160)
    assert scrape(series, 1160) == {"b": 3, OTHER: 8}
    assert scrape(series, 3000) == {OTHER: 9}
    receive(ledger, "a", 1, 3001)
    found = scrape(series, 3001)
    assert found["a"] == 7
    assert found[OTHER] == 10


def test_a_connected_device_is_not_stale():
    """Silence alone does not hide a device that is there."""
    ledger = Ledger()
    series = DeviceSeries(ledger, 5, 1000)
    ledger.connected("a", 0)
    assert scrape(series, 10**9) == {"a": 0}
    ledger.disconnected("a")
    assert scrape(series, 10**9) == {}


def test_accounts_that_share_are_no_device():
    """The ledger's own overflow is in _other, and is not shown as a device."""
    ledger = Ledger(max_accounts=1)
    receive(ledger, "a", 1, 10)
    receive(ledger, "b", 2, 10)
    assert scrape(DeviceSeries(ledger, 5, 1000), 10) == {"a": 1, OTHER: 2}
