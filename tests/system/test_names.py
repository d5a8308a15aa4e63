"""Whatever devices call things: over real MQTT, every question is answered, and each value is found again exactly."""

import json
from pathlib import Path

from tests.names import NAMES
from tests.system.gate import Gate

FIELDS = {name: at for at, name in enumerate(NAMES)}
STREAMS = [name for name in NAMES if name and not set("\0+#") & set(name)]
"""What a topic can have [MQTT-1.5.4-2] [MQTT-4.7.1-1]."""


async def _send(gate: Gate, device: str, streams: list[str], fields: dict) -> None:
    async with gate.client(device, max_inflight_messages=1000, max_queued_outgoing_messages=10_000) as client:
        for at, stream in enumerate(streams):
            topic = f"devices/{device}/telemetry/{stream}"
            await client.publish(topic, json.dumps({"called": stream, "t": at}), qos=1)
        if fields:
            await client.publish(f"devices/{device}/telemetry/fields", json.dumps(fields), qos=1)


def _check(gate: Gate, out: Path) -> None:
    """Every way to ask, with and without the server."""
    readings = gate.json("sql", "SELECT stream, field, value, text FROM readings WHERE device = 'hostile'")
    found = {row["field"]: row["value"] for row in readings if row["stream"] == "fields"}
    assert found == FIELDS
    texts = [(row["stream"], row["text"]) for row in readings if row["field"] == "called" and row["text"]]
    assert sorted(texts) == sorted((stream, stream) for stream in STREAMS)
    rows = gate.json("query", "hostile", "--from", "-1h")
    assert [row["fields"] for row in rows if row["stream"] == "fields"] == [FIELDS]
    assert sorted(row["fields"]["t"] for row in rows if row["stream"] != "fields") == list(range(len(STREAMS)))
    (bucket,) = gate.json("query", "--devices", "", "--field", "t", "--bucket", "1d", "--from", "-1h", "--stream", "ok")
    assert (bucket["count"], bucket["max"], bucket["devices"]) == (1, 0.0, 1)
    for stream in ("temp", "/", "\u00e9" * 40):
        (file,) = gate.json("export", "--out", str(out), "--stream", stream, "--format", "json")
        assert Path(file["file"]).parent == out
        assert [row["called"] for row in json.loads(Path(file["file"]).read_text())] == [stream]
    gate.run("dataset", "run", "all")
    assert gate.run("dataset", "get", "all").stdout.split() == ["n", "1"]
    assert gate.run("device", "show", "hostile").stdout


async def test_names_of_any_kind(tmp_path: Path):
    """SQL, exports, datasets, queries, the live view and the quarantine work, before and after sealing and merging."""
    with Gate(tmp_path) as gate:
        for name in ("hostile", "good"):
            gate.add(name)
        await _send(gate, "hostile", STREAMS, FIELDS)
        await _send(gate, "good", ["ok"], {})
        gate.wait_for("fleetgate_messages_stored_total", len(STREAMS) + 2)
        async with gate.client("hostile") as client:
            await client.publish("devices/hostile/telemetry/[/\x1b]%s{device}\u202e", b'{"\\u0000": ', qos=1)
        gate.wait_for("fleetgate_messages_quarantined_total", 1, reason="not_json")
        (file := tmp_path / "all.yaml").write_text(
            "sql: SELECT count(*) AS n FROM messages WHERE stream = 'ok'\nevery: 1d\nfolder: ''\n"
        )
        gate.run("dataset", "set", "all", str(file))
        _check(gate, tmp_path / "out")
        assert gate.json("store", "seal")["sealed"] == len(STREAMS) + 2
        await _send(gate, "good", ["later"], {})
        gate.json("store", "seal")
        _check(gate, tmp_path / "out")
        gate.check_account()
    listed = gate.run("quarantine", "list").stdout
    assert "\\x1b]%s{device}\\u202e" in listed
    assert gate.json("store", "scrub") == []
    assert "later" in gate.run("tail").stdout


async def test_thousands_of_streams(tmp_path: Path):
    """A device has as many streams as it may; messages of others are kept, and nobody's questions wait for it."""
    bounds = {"FLEETGATE__INGEST__DEVICE_STREAMS": "1500", "FLEETGATE__MQTT__DEVICE_RETAINED": "3"}
    with Gate(tmp_path, environment=bounds) as gate:
        for name in ("greedy", "good"):
            gate.add(name)
        await _send(gate, "greedy", [f"s{at}" for at in range(2500)], {})
        await _send(gate, "good", ["ok"], {})
        async with gate.client("greedy") as client:
            for at in range(5):
                await client.publish(f"devices/greedy/kept/{at}", "x", qos=1, retain=True)
        gate.wait_for("fleetgate_deliveries_dropped_total", 2, reason="retained_full")
        gate.wait_for("fleetgate_messages_quarantined_total", 1000, reason="streams")
        gate.wait_for("fleetgate_messages_stored_total", 1501)
        assert (gate.total("fleetgate_streams"), gate.total("fleetgate_series")) == (1501, 1501)
        gate.check_account()
        for _ in ("journal", "history"):
            assert gate.json("sql", "SELECT count(*) AS n FROM readings WHERE device = 'good'") == [{"n": 2}]
            assert gate.json("sql", "SELECT t FROM s1499") == [{"t": 1499}]
            assert len(gate.json("query", "good", "--stream", "ok")) == 1
            gate.json("store", "seal")
        gate.stop()
        gate.start()
        await _send(gate, "greedy", ["s7", "s2000"], {})
        gate.wait_for("fleetgate_messages_quarantined_total", 1, reason="streams")
        gate.wait_for("fleetgate_messages_stored_total", 1)
        (summary,) = gate.json("quarantine", "summary")
        assert (summary["reason"], summary["messages"]) == ("streams", 1001)
        assert "ingest.device_streams = 1500" in gate.run("quarantine", "list").stdout
        gate.stop()
        gate.environment["FLEETGATE__INGEST__DEVICE_STREAMS"] = "0"
        gate.start()
        gate.run("quarantine", "replay", "--all")
        assert gate.json("sql", "SELECT count(*) AS n FROM messages WHERE device = 'greedy'") == [{"n": 2502}]
