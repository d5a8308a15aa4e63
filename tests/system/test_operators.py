"""What operators do with a running server: publish, look at connections, watch packets, renew certificates."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from tests.system.gate import FLEETGATE, Gate
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    with Gate(tmp_path_factory.mktemp("operators"), environment={"FLEETGATE__MQTT__FLAPPING_CONNECTS": "0"}) as made:
        made.add("dev")
        made.add("other")
        yield made


def post(gate: Gate, path: str, body: object = None) -> int:
    """POST, and the status."""
    token = (gate.state / "admin.token").read_text().strip()
    request = urllib.request.Request(
        f"http://{gate.addresses['http']}/api/v1{path}",
        data=json.dumps(body or {}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def test_publish(gate: Gate):
    """To whoever subscribes; how many that were is said; with --retain to later ones too."""
    async with gate.client("dev") as device:
        await device.subscribe("devices/dev/commands/#", 1)
        found = gate.json("publish", "devices/dev/commands/reboot", "now", "--qos", "1")
        assert found == {"subscribers": 1}
        async for message in device.messages:
            assert (message.topic.value, message.payload, message.qos) == ("devices/dev/commands/reboot", b"now", 1)
            break
    gate.run("publish", "devices/dev/commands/mode", "eco", "--retain")
    async with gate.client("dev") as device:
        await device.subscribe("devices/dev/commands/#", 1)
        async for message in device.messages:
            assert (message.payload, message.retain) == (b"eco", True)
            break
    for topic in ("devices/+/x", "#", "", "$SYS/x"):
        done = gate.run("publish", topic, "x", check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("fleetgate: topic")
    assert post(gate, "/messages", {"topic": "a", "payload_base64": "%"}) == 422
    assert post(gate, "/messages", {"topic": "a"}) == 422
    assert post(gate, "/messages", {"topic": "a", "payload": "x" * 300_000}) == 422
    gate.check_account()


async def test_connections(gate: Gate):
    """Listed, shown, closed; one that is not there is an error."""
    async with gate.client("dev") as device:
        await device.subscribe("devices/dev/#", 1)
        await device.publish("devices/dev/telemetry", b"{}", 1)
        (item,) = gate.json("connections", "list")
        assert (item["client_id"], item["name"], item["listener"], item["version"]) == ("dev", "dev", "mqtts", "3.1.1")
        shown = gate.json("connections", "show", "dev")
        assert (shown["messages_in"], shown["subscriptions"]) == (1, ["devices/dev/#"])
        assert shown["tls"].startswith("TLSv1.")
        assert "dev" in gate.run("connections", "list").stdout
        assert "TLSv1" in gate.run("connections", "show", "dev").stdout
        gate.run("connections", "close", "dev")
        wait_until(lambda: gate.total("fleetgate_connections") == 0)
    done = gate.run("connections", "show", "dev", check=False)
    assert (done.returncode, done.stderr) == (1, "fleetgate: no connection with client id 'dev'\n")


async def test_packets_live(gate: Gate):
    """Of one device, in and out, without payloads; others are not shown."""
    watching = subprocess.Popen(
        [*FLEETGATE, "tail", "--device", "dev", "--packets", "--json", "--state", str(gate.state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=gate.folder,
    )
    try:
        assert "watching dev" in watching.stderr.readline()
        async with gate.client("dev") as device, gate.client("other") as other:
            await other.publish("devices/other/telemetry", b'{"secret": 1}', 1)
            await device.publish("devices/dev/telemetry", b'{"secret": 2}', 1)
            await device.subscribe("devices/dev/commands/#", 1)
        seen = []
        while "DISCONNECT" not in [event["packet"] for event in seen]:
            seen.append(json.loads(watching.stdout.readline()))
    finally:
        watching.send_signal(signal.SIGINT)
        watching.wait(10)
        watching.stdout.close()
        watching.stderr.close()
    assert {event["client_id"] for event in seen} == {"dev"}
    packets = {(event["direction"], event["packet"]) for event in seen}
    assert packets >= {("in", "PUBLISH"), ("out", "PUBACK"), ("in", "SUBSCRIBE"), ("out", "SUBACK")}
    assert "secret" not in json.dumps(seen)
    (published,) = [event for event in seen if (event["packet"], event["direction"]) == ("PUBLISH", "in")]
    assert (published["topic"], published["qos"], published["bytes"]) == ("devices/dev/telemetry", 1, 13)


async def test_hangup_reads_certificates_anew(gate: Gate):
    """A new server certificate is used for new connections; those that are there stay."""
    certificate = gate.state / "pki" / "server.pem"
    async with gate.client("dev") as device:
        before = certificate.read_bytes()
        certificate.unlink()
        os.kill(gate.process.pid, signal.SIGHUP)
        wait_until(lambda: certificate.exists() and certificate.read_bytes() != before)
        await device.publish("devices/dev/telemetry", b"{}", 1)
        async with gate.client("other") as other:
            await other.publish("devices/other/telemetry", b"{}", 1)
    assert post(gate, "/tls/reload") == 200
    wait_until(lambda: gate.logged(event="TLS files read"))


def test_without_a_server(gate: Gate, tmp_path):
    """The same commands: a message waits for the session that is kept, and is retained; nobody is connected."""
    alone = Gate(tmp_path / "alone")
    alone.run("init")
    assert alone.json("publish", "devices/x/commands", "later", "--retain") == {"subscribers": 0}
    assert alone.json("connections", "list") == []
    done = alone.run("tail", "--packets", check=False)
    assert done.returncode == 1
    assert "no server runs" in done.stderr


async def test_sessions_and_retained_messages_survive_kill_9(tmp_path):
    """What was acknowledged to its publisher waits for a device that was away, across kill -9; order is kept."""
    gate = Gate(tmp_path / "killed", environment={"FLEETGATE__MQTT__FLAPPING_CONNECTS": "0"})
    with gate:
        gate.add("dev")
        filters = ["--publish", "devices/+/commands/#", "--subscribe", "devices/#"]
        gate.run("application", "add", "back", *filters, "--out", str(gate.out))
        async with gate.client("dev", clean_session=False) as device:
            await device.subscribe("devices/dev/commands/#", 1)
        acknowledged = []
        async with gate.client("back") as back:
            await back.publish("devices/dev/commands/mode", b"kept", 1, retain=True)
            for number in range(200):
                await back.publish("devices/dev/commands/x", b"%d" % number, 1)
                acknowledged.append(b"%d" % number)
            gate.process.send_signal(signal.SIGKILL)
            gate.process.wait(10)
            gate.process.stdout.close()
        began = time.monotonic()
        gate.start()
        assert time.monotonic() - began < 10
        got = []
        async with gate.client("dev", clean_session=False) as device:
            async for message in device.messages:
                got.append(message.payload)
                if len(got) == 201:
                    break
        assert got == [b"kept", *acknowledged]
        async with gate.client("back") as back:
            await back.subscribe("devices/dev/commands/mode", 1)
            async for message in back.messages:
                assert (message.payload, message.retain) == (b"kept", True)
                break


def test_the_shell_completes(tmp_path):
    """Commands and their options."""
    for words, wanted in (("fleetgate op", "operator"), ("fleetgate device li", "list")):
        done = subprocess.run(
            [*FLEETGATE[:1], "-c", "import sys; sys.argv[0] = 'fleetgate'; from fleetgate.cli import main; main()"],
            env={
                **os.environ,
                "_FLEETGATE_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert wanted in done.stdout.split(), done
