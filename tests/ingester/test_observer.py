"""What streams send, and how far the clocks of devices are off."""

from collections import Counter

from ingester.batch import Batch
from ingester.clocks import DeviceClocks
from ingester.decode import Limits, scan_batch
from ingester.observer import Observer
from ingester.pipeline import Committed
from ingester.streams.observed import Observed

T = 1_795_392_000_000_000
SECOND = 1_000_000


def committed(*payloads: bytes, stream: str = "s", received: int = T) -> Committed:
    batch = Batch()
    for payload in payloads:
        batch.append("d", stream, received, payload)
    assert scan_batch(batch, Limits()) == []
    return Committed(batch, Counter(batch.devices), [])


def test_drift_is_noticed():
    """A new field and another type, once the stream is known for a while; each once, with who sent it."""
    told = []
    observer = Observer(lambda event, **about: told.append((event, about["field"], about["was"], about["now"])))
    for _ in range(60):
        observer.committed(committed(b'{"t": 1, "n": null}'))
    assert told == []
    for _ in range(3):
        observer.committed(committed(b'{"t": "warm", "more": true, "n": null}'))
    observer.committed(committed(b'{"n": 2.5}'))
    assert told == [
        ("stream drifts", "t", "integer", "text"),
        ("stream drifts", "more", None, "boolean"),
        ("stream drifts", "n", "null", "number"),
    ]
    seen = observer.observed.streams["s"]
    assert seen.fields["t"].types == {"integer": 60, "text": 3}
    assert [drift.device for drift in seen.drifts] == ["d"] * 3


def test_some_of_a_large_commit():
    """However many messages it has, a few are looked at."""
    observer = Observer()
    observer.committed(committed(*[b'{"v": 1}'] * 5000))
    assert 16 <= observer.observed.streams["s"].messages <= 17


def test_bounds():
    """Streams and fields that are made up do not fill the memory."""
    observed = Observed()
    for number in range(1500):
        observed.note(f"s{number}", "d", T, {"v": 1})
    assert len(observed.streams) == 1000
    assert "s1499" in observed.streams
    for number in range(600):
        observed.note("s1499", "d", T, {f"f{number}": 1})
    assert (len(observed.streams["s1499"].fields), observed.streams["s1499"].more) == (500, 101)


def test_skew_of_clocks():
    """The quickest message of the last minutes tells; what was long ago does not."""
    observer = Observer()
    for delay in (5, 3, 9):
        received = T + delay * SECOND
        observer.committed(committed(b'{"ts": %d}' % (T // 1000), received=received))
    assert observer.clocks.skew("d").microseconds == 3 * SECOND
    assert observer.clocks.skew("d").samples == 3
    observer.committed(committed(b"{}"))
    assert observer.clocks.skew("d").samples == 3
    clocks = DeviceClocks()
    assert clocks.skew("x") is None
    for minute, delay in ((0, 1), (11, 50), (22, 60), (33, 70)):
        received = T + minute * 60 * SECOND
        clocks.note("x", received - delay * SECOND, received)
    assert clocks.skew("x").microseconds == 60 * SECOND


def test_clocks_of_so_many_devices(monkeypatch):
    """Those that sent last."""
    monkeypatch.setattr("ingester.clocks._DEVICES", 2)
    clocks = DeviceClocks()
    for name in "abc":
        clocks.note(name, T, T)
    assert [clocks.skew(name) is None for name in "abc"] == [True, False, False]


def test_a_device_is_forgotten():
    """Its clock, and what was new of it; what streams have stays, and what other devices sent."""
    observer = Observer(lambda *_, **__: None)
    for number in range(60):
        observer.observed.note("s", "a", T + number, {"v": 1})
    observer.observed.note("s", "a", T, {"w": 1})
    observer.observed.note("s", "b", T, {"x": 1})
    for name in "ab":
        observer.clocks.note(name, T, T)
    observer.forget("a")
    observer.forget("nobody")
    assert [drift.device for drift in observer.observed.streams["s"].drifts] == ["b"]
    assert set(observer.observed.streams["s"].fields) == {"v", "w", "x"}
    assert [observer.clocks.skew(name) is None for name in "ab"] == [True, False]
