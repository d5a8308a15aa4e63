"""Presence, with the real program and real clients: who is there, since when, and what happened."""

import signal

import aiomqtt
import pytest
from aiomqtt import ProtocolVersion

from tests.system.gate import Gate
from tests.waiting import wait_until


@pytest.fixture
def gate(tmp_path):
    with Gate(tmp_path, environment={"FLEETGATE__MQTT__FLAPPING_CONNECTS": "0"}) as made:
        made.add("dev")
        yield made


def changes(gate: Gate, name: str = "dev") -> list[tuple[str, str | None]]:
    found = gate.json("device", "timeline", name)
    return [(event["event"], event["details"].get("reason")) for event in found]


async def test_a_device_comes_and_goes(gate: Gate):
    """What its connection is; each end with its reason; the same is published to who may see it."""
    gate.run("application", "add", "ops", "--subscribe", "devices/+/events/#", "--out", str(gate.out))
    async with gate.client("ops") as operator:
        await operator.subscribe("devices/+/events/presence", 1)
        async with gate.client("dev", protocol=ProtocolVersion.V5) as device:
            shown = gate.json("device", "presence", "dev")
            assert (shown["connected"], shown["last_data"], shown["condition"]) == (True, None, None)
            connection = shown["connection"]
            assert (connection["address"], connection["protocol"]) == ("127.0.0.1", "MQTT 5")
            assert connection["tls"] == "TLSv1.3"
            assert connection["cipher"].startswith("TLS_")
            await device.publish("devices/dev/telemetry", '{"t": 1}', qos=1)
            assert gate.json("device", "presence", "dev")["last_data"] is not None
            await device.publish("devices/dev/events/presence", "{}", qos=1)
            assert gate.total("fleetgate_device_rejected_total", device="dev") == 1
        async with gate.client("dev") as first, gate.client("dev"):
            with pytest.raises(aiomqtt.MqttError):
                await first.publish("devices/dev/telemetry", '{"t": 2}', qos=1, timeout=2)
        events = []
        async for message in operator.messages:
            events.append(message.payload.decode())
            if len(events) == 6:
                break
    wait_until(lambda: len(changes(gate)) == 6, what="six events")
    assert changes(gate) == [
        ("connected", None),
        ("disconnected", "disconnect"),
        ("connected", None),
        ("disconnected", "taken_over"),
        ("connected", None),
        ("disconnected", "disconnect"),
    ]
    assert '"event":"connected"' in events[0]
    assert '"reason":"taken_over"' in events[3]
    assert gate.json("device", "presence", "dev")["connected"] is False


async def test_presence_after_a_kill(gate: Gate):
    """Nobody is connected any more; the timeline says that the server died; the next run has a later epoch."""
    async with gate.client("dev") as device:
        await device.publish("devices/dev/telemetry", '{"t": 1}', qos=1)
        wait_until(lambda: changes(gate) == [("connected", None)], what="the event is written")
        gate.stop(signal.SIGKILL)
        gate.start()
        assert gate.json("device", "presence", "dev")["connected"] is False
    assert changes(gate) == [("connected", None), ("disconnected", "server_died")]
    found = gate.json("device", "timeline", "dev")
    assert found[1]["details"]["not_before"] <= found[1]["details"]["not_after"]
    async with gate.client("dev"):
        wait_until(lambda: len(changes(gate)) == 3, what="the event is written")
        found = gate.json("device", "timeline", "dev")
        assert [event["epoch"] for event in found][1:] == [found[0]["epoch"], found[0]["epoch"] + 1]
    gate.stop()
    assert changes(gate)[-1] == ("disconnected", "disconnect")


async def test_a_device_that_should_send(gate: Gate):
    """Is late when nothing came, by its type; the metrics say how many."""
    gate.run("type", "set", "pump", "--messages-per-minute", "600")
    gate.run("device", "set", "dev", "--type", "pump")
    gate.stop()
    gate.start()  # what is expected is looked up at the start, and once a minute
    async with gate.client("dev"):
        wait_until(lambda: gate.json("device", "show", "dev")["state"] == "active", what="active")
    gate.stop()
    gate.start()
    wait_until(lambda: changes(gate)[-1][0] == "late", seconds=30, what="late")
    assert gate.json("device", "presence", "dev")["condition"] == "late"
    assert gate.total("fleetgate_devices_overdue", condition="late") == 1
