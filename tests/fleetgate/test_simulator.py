"""Simulated readings and reports."""

import orjson

from fleetgate.simulator import Readings, Report


def test_readings_are_plausible():
    """Within what such sensors say; the battery runs down; the same seed says the same."""
    device, twin = Readings(3), Readings(3)
    found = [orjson.loads(device.at(1_795_392_000 + step * 600)) for step in range(288)]
    assert found[0] == orjson.loads(twin.at(1_795_392_000))
    temperatures = [reading["temperature"] for reading in found]
    assert -10 < min(temperatures) < max(temperatures) < 45
    assert 9 < max(temperatures) - min(temperatures) < 20
    assert all(5 <= reading["humidity"] <= 100 for reading in found)
    assert [reading["seq"] for reading in found] == list(range(1, 289))


def test_report():
    """Quantiles come from the sorted latencies; without any there are none."""
    report = Report(2, connected=2, sent=100, acknowledged=100, seconds=10, latencies_ms=[float(n) for n in range(100)])
    summary = report.summary()
    assert (summary["rate"], summary["p50_ms"], summary["p95_ms"], summary["p99_ms"]) == (10.0, 50.0, 95.0, 99.0)
    assert Report(1).summary()["p50_ms"] is None
