"""The plugins in a stock amqtt broker: config/amqtt.yaml, as the README says."""

import asyncio
import contextlib
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import aiomqtt
import pytest

from tests.system.gate import ROOT, Gate
from tests.waiting import until, wait_until

pytestmark = pytest.mark.system


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def kept(journal: Path) -> tuple[int, int]:
    """Messages in the journal and in quarantine, counted in the file beside its owner."""
    with contextlib.closing(sqlite3.connect(journal, timeout=10)) as connection:
        (stored,) = connection.execute("SELECT sum(coalesce(length(lengths) / 4, 1)) FROM journal").fetchone()
        (quarantined,) = connection.execute("SELECT count(*) FROM quarantine").fetchone()
    return stored or 0, quarantined


async def test_a_stock_broker_authenticates_and_ingests(tmp_path: Path):
    """After `fleetgate init`, it lets registered devices in, nobody else, and Ctrl-C flushes."""
    gate = Gate(tmp_path)
    gate.run("init")
    for name in ("in", "out"):
        gate.add(name)
    gate.run("device", "revoke", "out")
    port = free_port()
    gate.addresses["mqtts"] = f"127.0.0.1:{port}"
    text = (ROOT / "config/amqtt.yaml").read_text()
    text = text.replace("127.0.0.1:8883", f"127.0.0.1:{port}").replace("var/pki", str(gate.state / "pki"))
    (tmp_path / "amqtt.yaml").write_text(text.replace("state: var", f"state: {gate.state}"))
    amqtt = Path(sys.executable).with_name("amqtt")
    with (tmp_path / "amqtt.log").open("w") as log:
        broker = subprocess.Popen([amqtt, "-c", tmp_path / "amqtt.yaml"], stdout=log, stderr=log, cwd=ROOT)
    try:
        wait_until(lambda: answers(port), 20)
        async with gate.client("in") as client:
            for number in range(50):
                await client.publish("devices/in/telemetry", b'{"n": %d}' % number, qos=1)
            await client.publish("devices/out/telemetry", b'{"n": 666}', qos=1)
            await client.publish("devices/in/telemetry/x", b"bad", qos=1)
            # it acknowledges on receipt: a client that leaves at once may take messages with it
            await until(lambda: kept(gate.state / "telemetry" / "journal.db") == (50, 1))
        for name, client_id in (("out", "out"), ("in", "out")):
            with pytest.raises(aiomqtt.MqttError):
                async with gate.client(name, identifier=client_id):
                    pass
        bare = aiomqtt.TLSParameters(str(gate.out / "ca.pem"))
        with pytest.raises(aiomqtt.MqttError):
            async with aiomqtt.Client("127.0.0.1", port, identifier="in", tls_params=bare):
                pass
        done = gate.run("query", "in", check=False)
        assert "in use by process" in done.stderr
    finally:
        broker.send_signal(signal.SIGINT)
        await asyncio.to_thread(broker.wait, 20)
    text = (tmp_path / "amqtt.log").read_text()
    assert "broker_plugins/" not in text, text  # no traceback goes through our code
    rows = gate.json("query", "in", "--from", "-1h")
    assert [row["fields"]["n"] for row in rows] == list(range(50))
    assert [item["reason"] for item in gate.json("quarantine", "list")] == ["not_json"]
    assert gate.json("query", "out") == []
