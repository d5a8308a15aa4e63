"""Other people's clients over mTLS, more of them: gmqtt, MQTT.js (TCP and WebSocket), AWS' device clients."""

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import gmqtt
import pytest
from awscrt import io, mqtt, mqtt5

from tests.faults.sender import tls
from tests.system.gate import Gate
from tests.waiting import until, wait_until

pytestmark = pytest.mark.system

LARGE = b'{"x": "' + b"y" * (256 * 1024 - 9) + b'"}'
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A device, and a back end that sees and commands it; over TCP and WebSocket."""
    gate = Gate(
        tmp_path_factory.mktemp("clients"),
        environment={"FLEETGATE__MQTT__FLAPPING_CONNECTS": "0", "FLEETGATE__MQTT__WSS_BIND": "127.0.0.1:0"},
    )
    with gate:
        gate.add("dev")
        filters = ["--publish", "devices/+/commands/#", "--subscribe", "devices/#"]
        gate.run("application", "add", "back", *filters, "--out", str(gate.out))
        yield gate
    assert "Traceback" not in gate.errors(), gate.errors()


def stored(gate: Gate, stream: str) -> list[Any]:
    """Numbers `q` of a stream's readings, and the length of text `x`."""
    rows = gate.json("query", "dev", "--stream", stream, "--from", "-1h")
    return [row["fields"].get("q", len(row["fields"].get("x", ""))) for row in rows]


class Gmqtt:
    """A gmqtt client, and what came."""

    def __init__(self, gate: Gate, name: str, version: int, **more: Any) -> None:
        self.client = gmqtt.Client(name, **more)
        self.messages: list[tuple[str, bytes, int]] = []
        self.flags: int | None = None
        self.client.on_connect = lambda _client, flags, _result, _properties: setattr(self, "flags", flags)
        self.client.on_message = self._on_message
        self.client.set_config({"reconnect_retries": 0})
        self._subscribed: list[int] = []
        self.client.on_subscribe = lambda _client, number, _qos, _properties: self._subscribed.append(number)
        self._gate, self._name, self._version = gate, name, version

    def _on_message(self, _client: Any, topic: str, payload: bytes, _qos: int, properties: dict[str, Any]) -> int:
        self.messages.append((topic, payload, properties.get("retain", 0)))
        return 0

    async def __aenter__(self) -> "Gmqtt":
        host, port = self._gate.mqtt
        context = tls(self._gate, self._name)
        context.check_hostname = False
        await self.client.connect(host, port, ssl=context, version=self._version, keepalive=60)
        await until(lambda: self.flags is not None)
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ssl.SSLError):  # an acknowledgement that crosses its close_notify
            await self.client.disconnect()

    async def subscribe(self, topic_filter: str, qos: int) -> None:
        count = len(self._subscribed)
        self.client.subscribe(topic_filter, qos)
        await until(lambda: len(self._subscribed) > count)


@pytest.mark.parametrize("version", [4, 5])
async def test_gmqtt(fleet: Gate, version: int):
    """Every QoS both ways, 256 KiB, retained, will, take-over, reconnect with its session."""
    stream = f"gmqtt-{version}"
    topic = f"devices/dev/telemetry/{stream}"
    kept = {"session_expiry_interval": 300} if version == 5 else {}
    async with Gmqtt(fleet, "back", version) as back:
        await back.subscribe("devices/dev/#", 2)
        async with Gmqtt(fleet, "dev", version, clean_session=False, **kept) as device:
            await device.subscribe("devices/dev/commands/#", 2)
            for qos in (0, 1, 2):
                device.client.publish(topic, json.dumps({"q": qos}), qos=qos)
                back.client.publish("devices/dev/commands/x", str(qos), qos=qos)
            device.client.publish(topic, LARGE, qos=1)
            await until(lambda: sorted(payload for _, payload, _ in device.messages) == [b"0", b"1", b"2"])
            await until(lambda: len([found for found in back.messages if found[0] == topic]) == 4)
        back.client.publish("devices/dev/commands/x", "meanwhile", qos=1)
        await until(lambda: b"meanwhile" in [payload for _, payload, _ in back.messages])
        async with Gmqtt(fleet, "dev", version, clean_session=False, **kept) as device:
            assert device.flags == 1  # the session was present
            await until(lambda: [payload for _, payload, _ in device.messages] == [b"meanwhile"])
            device.client.publish("devices/dev/events/r", b"kept", qos=1, retain=True)
            await until(lambda: ("devices/dev/events/r", b"kept", 0) in back.messages)
        will = gmqtt.Message("devices/dev/events/w", b"gone", qos=1)
        first = Gmqtt(fleet, "dev", version, will_message=will)
        await first.__aenter__()
        async with Gmqtt(fleet, "dev", version) as second:
            await until(lambda: ("devices/dev/events/w", b"gone", 0) in back.messages)
            await second.subscribe("devices/dev/events/r", 1)
            await until(lambda: second.messages == [("devices/dev/events/r", b"kept", 1)])
            second.client.publish("devices/dev/events/r", b"", qos=1, retain=True)
            await until(lambda: ("devices/dev/events/r", b"", 0) in back.messages)
        await first.__aexit__()
    found = await asyncio.to_thread(stored, fleet, stream)
    assert sorted(found) == [0, 1, 2, 256 * 1024 - 9]


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
def test_mqtt_js(need, fleet: Gate, scheme: str, version: str):
    """Every QoS both ways, 256 KiB, retained, will, take-over, reconnect with its session."""
    need("node")
    modules = ROOT / ".venv/node/node_modules"
    if not modules.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("MQTT.js is not installed: npm was missing at set-up")
        pytest.skip("MQTT.js is not installed: npm was missing at set-up")
    port = fleet.addresses[scheme].rpartition(":")[2]
    url = f"{scheme}://127.0.0.1:{port}" + ("/mqtt" if scheme == "wss" else "")
    stream = f"js-{scheme}-{version}"
    command = ["node", ROOT / "tests/clients/mqttjs.cjs", url, version, fleet.out, f"devices/dev/telemetry/{stream}"]
    environment = {**os.environ, "NODE_PATH": str(modules)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["present"], seen["waited"], seen["retained"]) == (True, "meanwhile", True)
    assert seen["large"] == 256 * 1024
    assert sorted(stored(fleet, stream)) == [0, 1, 2, 256 * 1024 - 8]


def aws_tls(gate: Gate, name: str) -> io.ClientTlsContext:
    """The TLS context of AWS' clients."""
    options = io.TlsContextOptions.create_client_with_mtls_from_path(
        str(gate.out / f"{name}.pem"), str(gate.out / f"{name}-key.pem")
    )
    options.override_default_trust_store_from_path(None, str(gate.out / "ca.pem"))
    return io.ClientTlsContext(options)


class Aws311:
    """The MQTT 3.1.1 client of AWS' device SDKs, and what came."""

    def __init__(self, gate: Gate, name: str, *, clean: bool = True, will: mqtt.Will | None = None) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.connection = mqtt.Connection(
            mqtt.Client(tls_ctx=aws_tls(gate, name)),
            "localhost",
            gate.mqtt[1],
            name,
            clean_session=clean,
            will=will,
            reconnect_min_timeout_secs=60,
            reconnect_max_timeout_secs=60,
        )
        self.connection.on_message(
            lambda topic, payload, dup, qos, retain: self.messages.append((topic, payload, retain))
        )
        self.present = self.connection.connect().result(10)["session_present"]

    def __enter__(self) -> "Aws311":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.disconnect().result(10)

    def give_up(self) -> None:
        self.connection.disconnect()  # its future is never done while it waits to connect again

    def subscribe(self, topic_filter: str, qos: int) -> None:
        self.connection.subscribe(topic_filter, mqtt.QoS(qos))[0].result(10)

    def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> None:
        self.connection.publish(topic, payload, mqtt.QoS(qos), retain)[0].result(10)


class Aws5:
    """The MQTT 5 client of AWS' device SDKs, and what came."""

    def __init__(self, gate: Gate, name: str, *, clean: bool = True, will: mqtt5.PublishPacket | None = None) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        connected: Future[Any] = Future()
        self._stopped: Future[Any] = Future()
        self.client = mqtt5.Client(
            mqtt5.ClientOptions(
                "localhost",
                gate.mqtt[1],
                tls_ctx=aws_tls(gate, name),
                connect_options=mqtt5.ConnectPacket(
                    client_id=name, session_expiry_interval_sec=0 if clean else 300, will=will
                ),
                session_behavior=(
                    mqtt5.ClientSessionBehaviorType.CLEAN if clean else mqtt5.ClientSessionBehaviorType.REJOIN_ALWAYS
                ),
                min_reconnect_delay_ms=60_000,
                max_reconnect_delay_ms=60_000,
                on_publish_callback_fn=lambda found: self.messages.append(
                    (found.publish_packet.topic, found.publish_packet.payload, found.publish_packet.retain)
                ),
                on_lifecycle_event_connection_success_fn=connected.set_result,
                on_lifecycle_event_connection_failure_fn=lambda found: connected.set_exception(found.exception),
                on_lifecycle_event_stopped_fn=lambda _found: self._stopped.set_result(None),
            )
        )
        self.client.start()
        self.present = connected.result(10).connack_packet.session_present

    def __enter__(self) -> "Aws5":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop(mqtt5.DisconnectPacket())
        self._stopped.result(10)

    def give_up(self) -> None:
        self.__exit__()

    def subscribe(self, topic_filter: str, qos: int) -> None:
        packet = mqtt5.SubscribePacket([mqtt5.Subscription(topic_filter, mqtt5.QoS(qos))])
        self.client.subscribe(packet).result(10)

    def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> None:
        self.client.publish(
            mqtt5.PublishPacket(topic=topic, payload=payload, qos=mqtt5.QoS(qos), retain=retain)
        ).result(10)


def will_of(kind: type) -> Any:
    """A will, in the words of either client."""
    topic, payload = "devices/dev/events/w", b"gone"
    if kind is Aws311:
        return mqtt.Will(topic, mqtt.QoS.AT_LEAST_ONCE, payload, False)
    return mqtt5.PublishPacket(topic=topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE)


@pytest.mark.parametrize("client", [Aws311, Aws5])
def test_aws_device_clients(fleet: Gate, client: Any):
    """QoS 0 and 1 (they know no other) both ways, 256 KiB, retained, will, take-over, reconnect with its session."""
    stream = client.__name__
    topic = f"devices/dev/telemetry/{stream}"
    with client(fleet, "back") as back:
        back.subscribe("devices/dev/#", 1)
        with client(fleet, "dev", clean=False) as device:
            device.subscribe("devices/dev/commands/#", 1)
            for qos in (0, 1):
                device.publish(topic, json.dumps({"q": qos}).encode(), qos)
                back.publish("devices/dev/commands/x", str(qos).encode(), qos)
            device.publish(topic, LARGE, 1)
            wait_until(lambda: sorted(payload for _, payload, _ in device.messages) == [b"0", b"1"])
            wait_until(lambda: len([found for found in back.messages if found[0] == topic]) == 3)
        back.publish("devices/dev/commands/x", b"meanwhile", 1)
        with client(fleet, "dev", clean=False) as device:
            assert device.present
            wait_until(lambda: b"meanwhile" in [payload for _, payload, _ in device.messages])
            device.publish("devices/dev/events/r", b"kept", 1, retain=True)
        first = client(fleet, "dev", will=will_of(client))
        with client(fleet, "dev") as second:
            wait_until(lambda: ("devices/dev/events/w", b"gone", False) in back.messages)
            second.subscribe("devices/dev/events/r", 1)
            wait_until(lambda: ("devices/dev/events/r", b"kept", True) in second.messages)
            second.publish("devices/dev/events/r", b"", 1, retain=True)
        first.give_up()
    assert sorted(stored(fleet, stream)) == [0, 1, 256 * 1024 - 9]
