"""The main job: a device's message, by certificate over MQTT/TLS, into SQLite, seen everywhere people look."""

import asyncio
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.system.gate import FLEETGATE, Gate
from tests.waiting import wait_until

pytestmark = pytest.mark.system


def test_the_three_printed_lines_publish(need, gate: Gate):
    """mosquitto_pub, paho and aiomqtt, as printed; the reading is in query, tail, metrics and log."""
    need("mosquitto_pub")
    lines = gate.add("pump-1").splitlines()
    assert [re.match(r"mosquitto_pub|.*paho|.*aiomqtt", line) is not None for line in lines] == [True] * 3
    tail = subprocess.Popen(
        [*FLEETGATE, "tail", "--device", "pump-1", "--json", "--state", str(gate.state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "watching" in tail.stderr.readline()
    for line in lines:
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
    live = [json.loads(tail.stdout.readline()) for _ in lines]
    tail.send_signal(signal.SIGINT)
    assert tail.wait(10) in {0, 130}
    tail.stdout.close()
    tail.stderr.close()
    rows = gate.json("query", "pump-1")
    assert [row["fields"] for row in rows] == [{"temperature": 21.5}] * 3
    assert [list(row) for row in rows] == [["device", "stream", "time", "received", "fields"]] * 3
    assert [row["fields"] for row in live] == [{"temperature": 21.5}] * 3
    found = gate.metrics()
    assert found["fleetgate_messages_stored_total"] == 3
    assert found['fleetgate_device_messages_total{device="pump-1"}'] == 3
    assert found['fleetgate_device_bytes_total{device="pump-1"}'] == 3 * len('{"temperature": 21.5}')
    assert found['fleetgate_device_last_seen_timestamp_seconds{device="pump-1"}'] > 1.7e9
    assert found['fleetgate_connects_total{outcome="accepted",reason=""}'] == 3
    wait_until(lambda: gate.total("fleetgate_connections") == 0)
    assert gate.total("fleetgate_device_connected") == 0
    assert gate.logged(event="stored", device="pump-1")
    gate.check_account()


def test_formats_of_query(need, gate: Gate):
    """CSV and tables have the same columns; fields and buckets theirs."""
    need("mosquitto_pub")
    gate.add("form")
    for value in (1, 2, 6):
        assert (
            gate.publish(
                "form", "devices/form/telemetry/a/b", f'{{"ts": {1795392000 + value * 30}, "v": {value}}}'
            ).returncode
            == 0
        )
    wait_until(lambda: len(gate.json("query", "form")) == 3)
    csv = gate.run("query", "form", "--format", "csv").stdout.splitlines()
    assert csv[0] == "device,stream,time,received,fields"
    assert csv[1].startswith("form,a/b,2026-11-23T00:00:30Z,")
    assert "2026-11-23T00:00:30Z" in gate.run("query", "form").stdout
    field = gate.json("query", "form", "--field", "v", "--from", "2026-11-23", "--to", "2026-11-23T00:01:00Z")
    assert [(row["value"], list(row)) for row in field] == [
        (1, ["time", "received", "stream", "field", "value"]),
        (2, ["time", "received", "stream", "field", "value"]),
    ]
    buckets = gate.json("query", "form", "--field", "v", "--bucket", "1m", "--stream", "a/b")
    assert buckets == [
        {"time": "2026-11-23T00:00:00Z", "count": 1, "min": 1, "max": 1, "avg": 1.0, "last": 1},
        {"time": "2026-11-23T00:01:00Z", "count": 1, "min": 2, "max": 2, "avg": 2.0, "last": 2},
        {"time": "2026-11-23T00:03:00Z", "count": 1, "min": 6, "max": 6, "avg": 6.0, "last": 6},
    ]
    assert gate.json("query", "form", "--stream", "none") == []
    assert "not a duration" in gate.run("query", "form", "--field", "v", "--bucket", "x", check=False).stderr
    assert gate.run("query", "nobody", check=False).returncode == 1


async def test_an_application_hears_devices(need, gate: Gate):
    """A back end subscribes with the filters it was given; the message is stored as well."""
    need("mosquitto_pub")
    gate.add("heard")
    gate.run("application", "add", "back", "--subscribe", "devices/+/telemetry/#", "--out", str(gate.out))
    before = gate.total("fleetgate_messages_stored_total")
    async with gate.client("back") as back, asyncio.timeout(20):
        await back.subscribe("devices/+/telemetry/#")
        published = await asyncio.to_thread(gate.publish, "heard", "devices/heard/telemetry/x", '{"v": 1}')
        assert published.returncode == 0
        message = await anext(aiter(back.messages))
        assert (message.topic.value, message.payload) == ("devices/heard/telemetry/x", b'{"v": 1}')
    gate.wait_for("fleetgate_messages_stored_total", before + 1)


@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_a_client_that_leaves_at_once_loses_nothing(need, gate: Gate, qos: str):
    """Many messages and a DISCONNECT right behind them: every one is stored, in order."""
    need("mosquitto_pub")
    name = f"leaves-{qos}"
    gate.add(name)
    lines = "".join(f'{{"n": {number}}}\n' for number in range(300))
    command = gate.mosquitto(name, "-q", qos, "-t", f"devices/{name}/telemetry", "-l")
    subprocess.run(command, input=lines.encode(), check=True, timeout=30)
    wait_until(lambda: len(gate.json("query", name, "--from", "-1h")) == 300)
    assert [row["fields"]["n"] for row in gate.json("query", name, "--from", "-1h")] == list(range(300))
    gate.check_account()


def test_kill_and_restart_lose_nothing_that_was_committed(need, fresh: Gate):
    """kill -9 under load: every row that a query saw before is there afterwards, without any repair."""
    need("mosquitto_pub")
    fresh.start()
    fresh.add("k")
    payloads = "".join(f'{{"n": {number}}}\n' for number in range(5000)).encode()
    publisher = subprocess.Popen(
        fresh.mosquitto("k", "-q", "1", "-t", "devices/k/telemetry", "-l"),
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    writer = threading.Thread(target=feed, args=(publisher, payloads))
    writer.start()
    wait_until(lambda: fresh.total("fleetgate_messages_stored_total") > 500, 30)
    seen = [row["fields"]["n"] for row in fresh.json("query", "k", "--from", "-1h")]
    assert fresh.stop(signal.SIGKILL) == -signal.SIGKILL
    publisher.kill()
    publisher.wait(10)
    writer.join(10)
    offline = [row["fields"]["n"] for row in fresh.json("query", "k", "--from", "-1h")]
    fresh.start()
    found = [row["fields"]["n"] for row in fresh.json("query", "k", "--from", "-1h")]
    assert found == offline
    assert seen
    assert found[: len(seen)] == seen
    assert found == list(range(len(found)))


def feed(publisher: subprocess.Popen, payloads: bytes) -> None:
    try:
        publisher.stdin.write(payloads)
        publisher.stdin.close()
    except BrokenPipeError:
        pass


@contextmanager
def load(gate: Gate, name: str) -> Iterator[None]:
    """A device that publishes for the time of the block; begins when 500 messages are stored."""
    publisher = subprocess.Popen(
        gate.mosquitto(name, "-q", "1", "-t", f"devices/{name}/telemetry", "-l"),
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    writer = threading.Thread(target=feed, args=(publisher, b'{"v": 1}\n' * 20_000))
    writer.start()
    try:
        wait_until(lambda: gate.total("fleetgate_messages_stored_total") > 500, 30)
        yield
    finally:
        publisher.kill()
        publisher.wait(10)
        writer.join(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_under_load_drains(need, fresh: Gate, number: int):
    """Within 5 seconds, exit code 0; the last scrape's messages are stored, server.json is gone, nothing was raised."""
    need("mosquitto_pub")
    fresh.start()
    fresh.add("t")
    with load(fresh, "t"):
        received = fresh.total("fleetgate_messages_received_total")
        assert fresh.stop(number, seconds=5) == 0
    assert not (fresh.state / "server.json").exists()
    assert fresh.logged(event="stopped")
    assert "Traceback" not in fresh.errors()
    assert len(fresh.json("query", "t", "--from", "-1h")) >= received


def test_a_second_signal_does_not_wait(need, fresh: Gate):
    """Two SIGTERM under load: the end comes at once, and the folder is free."""
    need("mosquitto_pub")
    fresh.start()
    fresh.add("t")
    with load(fresh, "t"):
        fresh.process.send_signal(signal.SIGTERM)
        fresh.process.send_signal(signal.SIGTERM)
        assert fresh.stop(signal.SIGTERM, seconds=5) is not None
    assert len(fresh.json("query", "t", "--from", "-1h")) >= 500


def test_sighup_reopens_the_log(need, fresh: Gate):
    """After the log was moved away, lines go to a new one."""
    need("mosquitto_pub")
    fresh.start()
    fresh.add("h")
    log = fresh.state / "logs" / "ingest.log"
    log.rename(log.with_name("moved"))
    fresh.process.send_signal(signal.SIGHUP)
    wait_until(log.exists)
    fresh.publish("h", "devices/h/telemetry", "{}")
    wait_until(lambda: fresh.logged(event="stored", device="h"))


def test_state_is_private(gate: Gate):
    """Keys, token and databases are the owner's only."""
    for path in gate.state.rglob("*"):
        if path.is_dir() or path.suffix != ".pem" or path.name.endswith("-key.pem"):
            assert path.stat().st_mode & 0o077 == 0, path


def test_one_owner(gate: Gate, tmp_path):
    """A second server on the same folder is refused with the first one's pid; a bad address with a clear line."""
    done = gate.run("serve", "--mqtt-bind", "127.0.0.1:0", "--http-bind", "127.0.0.1:0", check=False)
    assert done.returncode == 1
    assert str(gate.process.pid) in done.stderr
    done = gate.run("serve", "--http-bind", "0.0.0.0:0", check=False)
    assert (done.returncode, "allow_plain" in done.stderr) == (1, True)
    done = Gate(tmp_path).run("serve", "--http-bind", gate.addresses["http"], "--mqtt-bind", "127.0.0.1:0", check=False)
    assert done.returncode == 1
    assert "in use" in done.stderr
    for mqtt in (gate.addresses["mqtts"], "nowhere.invalid:1"):
        done = Gate(tmp_path).run("serve", "--http-bind", "127.0.0.1:0", "--mqtt-bind", mqtt, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert done.stderr.splitlines()[-1].startswith("fleetgate: MQTT: ")


def test_simulate_reports(need, fresh: Gate):
    """With no server running it starts one; all messages are acknowledged and stored."""
    report = fresh.json("simulate", "--devices", "5", "--rate", "50", "--duration", "2")
    assert (report["connected"], report["errors"]) == (5, 0)
    assert 80 <= report["acknowledged"] == report["sent"] <= 105
    assert report["p50_ms"] <= report["p99_ms"]
    stored = [row for n in range(1, 6) for row in fresh.json("query", f"sim-0000{n}")]
    assert len(stored) == report["acknowledged"]


def test_simulate_a_year(need, fresh: Gate):
    """Readings of the days asked for, as many of each, which are there to be asked in SQL."""
    report = fresh.json("simulate", "--devices", "2", "--rate", "365", "--duration", "2", "--days", "365")
    asked = "month(time) AS month, count(*) AS n, avg(value) AS mean FROM readings WHERE field = 'temperature'"
    months = {row["month"]: row for row in fresh.json("sql", f"SELECT {asked} GROUP BY month")}
    assert sum(row["n"] for row in months.values()) == report["acknowledged"] == report["sent"] >= 728
    assert [50 <= row["n"] <= 64 for row in months.values()] == [True] * 12
    assert months[7]["mean"] - months[1]["mean"] > 10


def test_doctor(gate: Gate, tmp_path):
    """On a served folder everything is well; on a damaged one it says what is broken."""
    found = {finding["check"]: finding["status"] for finding in gate.json("doctor")}
    assert "error" not in found.values()
    assert {"port mqtts", "port http", "clock", "certificate ca", "disk", "file limit", "database telemetry"} <= set(
        found
    )
    other = Gate(tmp_path)
    other.run("init")
    (other.state / "pki" / "ca-key.pem").chmod(0o644)
    (other.state / "fleet.db").write_bytes(b"no database" * 1000)
    done = other.run("doctor", "--json", check=False)
    errors = [finding["check"] for finding in json.loads(done.stdout) if finding["status"] == "error"]
    assert done.returncode == 1
    assert {"key", "database registry"} <= set(errors)


def test_commands_work_without_a_server(tmp_path):
    """Every command opens the folder itself; stdout is data only; errors are one line."""
    alone = Gate(tmp_path)
    alone.run("device", "add", "a", "--out", str(alone.out))
    for action in ("disable", "enable", "revoke"):
        assert alone.json("device", action, "a")["name"] == "a"
    assert [member["name"] for member in alone.json("device", "list")] == ["a"]
    assert alone.json("device", "show", "a")["certificates"][0]["status"] == "revoked"
    assert alone.json("query", "a") == []
    assert alone.json("quarantine", "list") == []
    assert "no server runs" in alone.run("tail").stderr
    assert "a" in alone.run("device", "list").stdout
    assert alone.json("device", "delete", "a", "--purge") == {"name": "a", "purged": 0}
    for wrong in (
        ("device", "show", "a"),
        ("device", "add", "b/c", "--out", "x"),
        ("device", "add", "b"),
        ("quarantine", "replay"),
    ):
        done = alone.run(*wrong, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("fleetgate: ")
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
    assert alone.run("device", check=False).returncode == 2


def test_device_add_with_csr_and_certificate(tmp_path):
    """A key that never leaves the device; a certificate made elsewhere."""
    from fleet.authority import signing_request
    from tests.fleet.pki import certificate, key, pem

    own = key()
    ca = certificate(cn="elsewhere", ca=True, uris=(), usage=None, own=own)
    (tmp_path / "ca.pem").write_bytes(pem(ca))
    alone = Gate(tmp_path, environment={"FLEETGATE__TLS__CLIENT_CA": str(tmp_path / "ca.pem")})
    (tmp_path / "c.csr").write_bytes(signing_request("c")[1])
    made = certificate(uris=("spiffe://fleetgate.local/device/d",), issuer=ca, issuer_key=own)
    (tmp_path / "d.pem").write_bytes(pem(made))
    (tmp_path / "f.pem").write_bytes(pem(certificate(uris=("spiffe://fleetgate.local/device/f",))))
    assert "BEGIN CERTIFICATE" in alone.run("device", "add", "c", "--csr", str(tmp_path / "c.csr")).stdout
    alone.run("device", "add", "d", "--certificate", str(tmp_path / "d.pem"))
    assert [member["name"] for member in alone.json("device", "list")] == ["c", "d"]
    done = alone.run("device", "add", "e", "--certificate", str(tmp_path / "d.pem"), check=False)
    assert "belongs to device d" in done.stderr
    done = alone.run("device", "add", "f", "--certificate", str(tmp_path / "f.pem"), check=False)
    assert "would be refused (unknown_ca)" in done.stderr
    done = alone.run("device", "add", "e", "--csr", str(tmp_path / "nowhere"), check=False)
    assert "nowhere" in done.stderr


def test_environment_and_settings_reach_the_program(tmp_path):
    """FLEETGATE_STATE names the folder; a wrong key stops with the near miss."""
    environment = {**os.environ, "FLEETGATE_STATE": str(tmp_path / "here"), "FLEETGATE__STORE__KEEP_DAY": "3"}
    done = subprocess.run(
        [*FLEETGATE, "init"], capture_output=True, text=True, env=environment, check=False, cwd=tmp_path
    )
    assert (done.returncode, "did you mean 'keep_days'" in done.stderr) == (1, True)
    del environment["FLEETGATE__STORE__KEEP_DAY"]
    subprocess.run([*FLEETGATE, "init"], env=environment, check=True, cwd=tmp_path)
    assert (tmp_path / "here" / "pki" / "ca.pem").exists()
