"""Other people's clients over mTLS, 3.1.1 and 5: mosquitto_pub and mosquitto_sub, paho, aiomqtt, amqtt's own."""

import asyncio
import contextlib
import json
import subprocess
import threading

import aiomqtt
import paho.mqtt.client as paho
import pytest
from amqtt.client import MQTTClient
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.system.gate import Gate
from tests.waiting import until, wait_until

LARGE = b'{"x": "' + b"y" * (256 * 1024 - 9) + b'"}'
VERSIONS = {"3.1.1": paho.MQTTv311, "5": paho.MQTTv5}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Two devices, and a back end that sees and commands them."""
    with Gate(tmp_path_factory.mktemp("clients"), environment={"FLEETGATE__MQTT__FLAPPING_CONNECTS": "0"}) as gate:
        gate.add("dev")
        gate.add("other")
        filters = ["--publish", "devices/+/commands/#", "--subscribe", "devices/#"]
        gate.run("application", "add", "back", *filters, "--out", str(gate.out))
        yield gate


class Subscriber:
    """mosquitto_sub, and the lines it prints: topic, QoS, retain, payload."""

    def __init__(self, gate: Gate, *arguments: str, name: str = "back", wait: bool = True) -> None:
        command = gate.mosquitto(name, "-F", "%t %q %r %p", *arguments, program="mosquitto_sub")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        if wait:
            wait_until(lambda: self._subscribed(gate, name), what="its subscription")

    def _subscribed(self, gate: Gate, name: str) -> bool:
        items = json.loads(gate.get("/api/v1/connections"))["items"]
        return any(item["client_id"] == name and item["subscriptions"] for item in items)

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def messages(self) -> list[str]:
        return [line for line in self.lines if line.startswith("devices/")]

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)
        self._reading.join()
        self.process.stdout.close()


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_mosquitto(fleet: Gate, need, version: str):
    """Publish and subscribe at every QoS, 256 KiB, retained, will."""
    need("mosquitto_pub", "mosquitto_sub")
    stream = f"devices/dev/telemetry/{version}"
    with Subscriber(fleet, "-V", version, "-t", "devices/dev/#", "-q", "2") as subscriber:
        for qos in "012":
            done = subprocess.run(
                fleet.mosquitto("dev", "-V", version, "-q", qos, "-t", stream, "-m", f'{{"q": {qos}}}'),
                capture_output=True,
                timeout=20,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        wait_until(lambda: len(subscriber.messages()) == 3)
        assert subscriber.messages() == [stream + f' {qos} 0 {{"q": {qos}}}' for qos in "012"]
        assert fleet.publish("dev", stream, LARGE, "-V", version).returncode == 0
        wait_until(lambda: len(subscriber.messages()) == 4)
        assert subscriber.messages()[3].endswith(LARGE.decode())
        kept = fleet.mosquitto("dev", "-V", version, "-r", "-q", "1", "-t", "devices/dev/events/k", "-m", "kept")
        assert subprocess.run(kept, check=False, timeout=20).returncode == 0
        wait_until(lambda: subscriber.messages()[4:] == ["devices/dev/events/k 1 0 kept"])
        doomed = fleet.mosquitto(
            "other",
            "-V",
            version,
            "-t",
            "devices/other/commands",
            "--will-topic",
            "devices/dev/x",
            program="mosquitto_sub",
        )
        assert subprocess.run(doomed, check=False, timeout=20, capture_output=True).returncode != 0
    with Subscriber(fleet, "-V", version, "-t", "devices/+/events/#", "-q", "1") as subscriber:
        wait_until(lambda: subscriber.messages() == ["devices/dev/events/k 1 1 kept"])
    forget = fleet.mosquitto("dev", "-V", version, "-r", "-n", "-q", "1", "-t", "devices/dev/events/k")
    assert subprocess.run(forget, check=False, timeout=20).returncode == 0
    will = fleet.mosquitto(
        "other",
        *("-V", version, "-t", "devices/other/commands/#", "--will-topic", "devices/other/events/w"),
        *("--will-payload", "gone", "--will-qos", "1"),
        program="mosquitto_sub",
    )
    with Subscriber(fleet, "-V", version, "-t", "devices/other/#", "-q", "1") as subscriber:
        victim = subprocess.Popen(will)
        wait_until(lambda: "other" in [item["client_id"] for item in fleet.json("connections", "list")])
        victim.kill()
        victim.wait()
        wait_until(lambda: subscriber.messages() == ["devices/other/events/w 1 0 gone"])
        older = subprocess.Popen(will, stderr=subprocess.DEVNULL)
        wait_until(lambda: "other" in [item["client_id"] for item in fleet.json("connections", "list")])
        assert fleet.publish("other", "devices/other/events/x", "taken over", "-V", version).returncode == 0
        wait_until(
            lambda: (
                sorted(subscriber.messages()[1:])
                == ["devices/other/events/w 1 0 gone", "devices/other/events/x 1 0 taken over"]
            )
        )
        older.kill()
        older.wait()
    rows = [row["fields"] for row in fleet.json("query", "dev", "--stream", version, "--from", "-1h")]
    assert rows[:3] == [{"q": 0}, {"q": 1}, {"q": 2}]


def test_mosquitto_lines_and_a_kept_session(fleet: Gate, need):
    """Many messages down one connection; a session that is kept gets what came meanwhile."""
    need("mosquitto_pub", "mosquitto_sub")
    lines = "".join(f'{{"line": {number}}}\n' for number in range(500))
    command = fleet.mosquitto("dev", "-q", "2", "-t", "devices/dev/telemetry/lines", "-l")
    assert subprocess.run(command, input=lines, text=True, timeout=60, check=False).returncode == 0
    rows = fleet.json("query", "dev", "--stream", "lines", "--from", "-1h")
    assert [row["fields"]["line"] for row in rows] == list(range(500))
    kept = ("-c", "-t", "devices/dev/commands/#", "-q", "1")
    with Subscriber(fleet, *kept, name="dev"):
        pass
    wait_until(lambda: fleet.json("connections", "list") == [])
    for number in range(3):
        fleet.run("publish", "devices/dev/commands/x", f"command {number}", "--qos", "1")
    with Subscriber(fleet, *kept, name="dev", wait=False) as subscriber:
        wait_until(lambda: len(subscriber.messages()) == 3)
        assert subscriber.messages() == [f"devices/dev/commands/x 1 0 command {number}" for number in range(3)]


class Paho:
    """A paho client in its own thread, and what came."""

    def __init__(self, gate: Gate, name: str, version: str, *, clean: bool = True, expiry: int = 0, **will) -> None:
        five = version == "5"
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=VERSIONS[version],
            **({} if five else {"clean_session": clean}),
        )
        self.client.tls_set(gate.out / "ca.pem", gate.out / f"{name}.pem", gate.out / f"{name}-key.pem")
        self.messages: list[paho.MQTTMessage] = []
        self.flags = None
        self.gone: list[ReasonCode] = []
        self.client.on_message = lambda *found: self.messages.append(found[2])
        self.client.on_connect = lambda *found: setattr(self, "flags", found[2])
        self.client.on_disconnect = lambda *found: self.gone.append(found[3])
        if will:
            self.client.will_set(**will)
        properties = None
        if five:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = expiry
        self.client.connect(*gate.mqtt, properties=properties, **({"clean_start": clean} if five else {}))
        self.client.loop_start()
        wait_until(lambda: self.flags is not None)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, topic_filter: str, qos: int) -> None:
        done: list[int] = []
        self.client.on_subscribe = lambda *found: done.append(found[2])
        _, number = self.client.subscribe(topic_filter, qos)
        wait_until(lambda: number in done)

    def publish(self, topic: str, payload: bytes, qos: int, **more) -> None:
        self.client.publish(topic, payload, qos, **more).wait_for_publish(20)


@pytest.mark.parametrize("version", VERSIONS)
def test_paho(fleet: Gate, version: str):
    """Every QoS both ways, 256 KiB, retained, will, take-over, reconnect with its session."""
    stream = f"devices/dev/telemetry/paho-{version}"
    with Paho(fleet, "back", version) as back:
        back.subscribe("devices/+/#", 2)
        back.messages.clear()
        with Paho(fleet, "dev", version, clean=False, expiry=300) as device:
            device.subscribe("devices/dev/commands/#", 2)
            for qos in (0, 1, 2):
                device.publish(stream, b'{"q": %d}' % qos, qos)
                back.publish("devices/dev/commands/x", b"%d" % qos, qos)
            device.publish(stream, LARGE, 1)
            wait_until(lambda: len(device.messages) == 3)
            wait_until(lambda: len([m for m in back.messages if m.topic == stream]) == 4)
            assert sorted(message.payload for message in device.messages) == [b"0", b"1", b"2"]
        wait_until(lambda: "dev" not in [item["client_id"] for item in fleet.json("connections", "list")])
        back.publish("devices/dev/commands/x", b"meanwhile", 1)
        with Paho(fleet, "dev", version, clean=False, expiry=300) as device:
            assert device.flags.session_present
            wait_until(lambda: [message.payload for message in device.messages] == [b"meanwhile"])
            device.publish("devices/dev/events/r", b"kept", 1, retain=True)
        will = {"topic": "devices/dev/events/w", "payload": "gone", "qos": 1}
        first = Paho(fleet, "dev", version, **will)
        first.client.on_disconnect = None
        first.client.loop_stop()
        second = Paho(fleet, "dev", version)
        wait_until(lambda: [m for m in back.messages if m.topic == "devices/dev/events/w"])
        with second:
            second.subscribe("devices/dev/events/r", 1)
            wait_until(lambda: [(message.payload, message.retain) for message in second.messages] == [(b"kept", True)])
            second.publish("devices/dev/events/r", b"", 1, retain=True)
        with contextlib.suppress(ValueError, OSError):
            first.client.disconnect()
        sock = first.client.socket()
        if sock is not None:
            sock.close()
    rows = fleet.json("query", "dev", "--stream", f"paho-{version}", "--from", "-1h")
    assert [row["fields"] for row in rows][:3] == [{"q": 0}, {"q": 1}, {"q": 2}]


async def receive(client: aiomqtt.Client | MQTTClient, count: int) -> list[tuple[str, bytes, bool]]:
    """The next messages that come: topic, payload, retain flag."""
    found = []
    async with asyncio.timeout(20):
        while len(found) < count:
            if isinstance(client, aiomqtt.Client):
                message = await anext(client.messages)
                found.append((str(message.topic), message.payload, bool(message.retain)))
            else:
                message = await client.deliver_message()
                found.append((message.topic, bytes(message.data), message.publish_packet.retain_flag))
    return found


async def gone(gate: Gate, name: str) -> None:
    """Wait until a client is not connected."""
    await asyncio.to_thread(
        wait_until, lambda: name not in [item["client_id"] for item in gate.json("connections", "list")]
    )


async def stored(gate: Gate, stream: str) -> list[object]:
    """Fields of a stream's readings, and the length of the long one."""
    rows = await asyncio.to_thread(gate.json, "query", "dev", "--stream", stream, "--from", "-1h")
    return [row["fields"].get("q", len(row["fields"].get("x", ""))) for row in rows]


@pytest.mark.parametrize("version", [aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5])
async def test_aiomqtt(fleet: Gate, version):
    """Every QoS both ways, 256 KiB, retained, will, take-over, reconnect with its session."""
    stream = f"aiomqtt-{version.value}"
    topic = f"devices/dev/telemetry/{stream}"
    session: dict[str, object] = {"clean_session": False}
    if version is aiomqtt.ProtocolVersion.V5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 300
        session = {"clean_start": False, "properties": properties}
    async with fleet.client("back", protocol=version) as back:
        await back.subscribe("devices/dev/#", 2)
        async with fleet.client("dev", protocol=version, **session) as device:
            await device.subscribe("devices/dev/commands/#", 2)
            for qos in (0, 1, 2):
                await device.publish(topic, json.dumps({"q": qos}), qos)
                await back.publish("devices/dev/commands/x", str(qos), qos)
            await device.publish(topic, LARGE, 1)
            assert sorted(payload for _, payload, _ in await receive(device, 3)) == [b"0", b"1", b"2"]
            assert (topic, LARGE, False) in await receive(back, 7)  # its own commands among them
        await gone(fleet, "dev")
        await back.publish("devices/dev/commands/x", "meanwhile", 1)
        async with fleet.client("dev", protocol=version, **session) as device:
            assert await receive(device, 1) == [("devices/dev/commands/x", b"meanwhile", False)]
            await device.publish("devices/dev/events/r", "kept", 1, retain=True)
        assert {payload for _, payload, _ in await receive(back, 2)} == {b"meanwhile", b"kept"}
        first = fleet.client("dev", protocol=version, will=aiomqtt.Will("devices/dev/events/w", "gone", 1))
        await first.__aenter__()
        async with fleet.client("dev", protocol=version) as second:
            assert await receive(back, 1) == [("devices/dev/events/w", b"gone", False)]
            await second.subscribe("devices/dev/events/r", 1)
            assert await receive(second, 1) == [("devices/dev/events/r", b"kept", True)]
            await second.publish("devices/dev/events/r", b"", 1, retain=True)
            with pytest.raises(aiomqtt.MqttError):
                await receive(first, 1)
        with contextlib.suppress(aiomqtt.MqttError):
            await first.__aexit__(None, None, None)
    assert sorted(await stored(fleet, stream)) == [0, 1, 2, 256 * 1024 - 9]


class Amqtt(MQTTClient):
    """amqtt's own client with a device's certificate. A context manager."""

    def __init__(self, gate: Gate, name: str, *, clean: bool = True, **more: object) -> None:
        super().__init__(name, config={"auto_reconnect": False, "check_hostname": False, "plugins": {}, **more})
        self.config.connection.certfile = str(gate.out / f"{name}.pem")
        self.config.connection.keyfile = str(gate.out / f"{name}-key.pem")
        self._gate, self._clean = gate, clean

    async def __aenter__(self) -> "Amqtt":
        host, port = self._gate.mqtt
        await self.connect(f"mqtts://{host}:{port}", self._clean, cafile=str(self._gate.out / "ca.pem"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()


async def test_amqtts_own_client(fleet: Gate):
    """Every QoS both ways, 256 KiB, retained, will, take-over, reconnect with its session. It knows 3.1.1 only."""
    topic = "devices/dev/telemetry/amqtt"
    async with Amqtt(fleet, "back") as back:
        assert await back.subscribe([("devices/dev/#", 2)]) == [2]
        async with Amqtt(fleet, "dev", clean=False) as device:
            assert await device.subscribe([("devices/dev/commands/#", 2)]) == [2]
            for qos in (0, 1, 2):
                await device.publish(topic, b'{"q": %d}' % qos, qos)
                await back.publish("devices/dev/commands/x", b"%d" % qos, qos)
            await device.publish(topic, LARGE, 1)
            assert sorted(payload for _, payload, _ in await receive(device, 3)) == [b"0", b"1", b"2"]
            assert (topic, LARGE, False) in await receive(back, 7)  # its own commands among them
        await gone(fleet, "dev")
        await back.publish("devices/dev/commands/x", b"meanwhile", 1)
        async with Amqtt(fleet, "dev", clean=False) as device:
            assert await receive(device, 1) == [("devices/dev/commands/x", b"meanwhile", False)]
            await device.publish("devices/dev/events/r", b"kept", 1, retain=True)
        assert {payload for _, payload, _ in await receive(back, 2)} == {b"meanwhile", b"kept"}
        will = {"topic": "devices/dev/events/w", "message": "gone", "qos": 1, "retain": False}
        async with Amqtt(fleet, "dev", will=will) as first, Amqtt(fleet, "dev") as second:
            assert await receive(back, 1) == [("devices/dev/events/w", b"gone", False)]
            await until(lambda: not first.session.transitions.is_connected())
            await second.subscribe([("devices/dev/events/r", 1)])
            assert await receive(second, 1) == [("devices/dev/events/r", b"kept", True)]
            await second.publish("devices/dev/events/r", b"", 1, retain=True)
    assert sorted(await stored(fleet, "amqtt")) == [0, 1, 2, 256 * 1024 - 9]
