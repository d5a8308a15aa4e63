"""Edge nodes of Sparkplug at the real program: births that outlive it, and births that it asks for."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from tests.sparkplug import Node
from tests.system.gate import Gate
from tests.system.test_source_mqtt import Mosquitto, mosquitto  # noqa: F401 - a fixture
from tests.waiting import until, wait_until

pytestmark = pytest.mark.system

POLICY = (
    "- {allow: [publish, subscribe, receive], to: ['spBv1.0/plant/*/${device.id}', 'spBv1.0/plant/*/${device.id}/*']}"
)


@asynccontextmanager
async def connected(client: aiomqtt.Client, name: str) -> AsyncIterator[Node]:
    """A node that obeys."""
    async with client:
        node = Node(client, name)
        obeying = asyncio.create_task(node.obey())
        try:
            yield node
        finally:
            obeying.cancel()


def temperatures(gate: Gate, device: str) -> list[tuple[str, int, list[str]]]:
    """Of data: device of the node, value, flags."""
    rows = gate.json("query", device, "--from", "-1h")
    return [
        (row["fields"].get("unit", ""), row["fields"]["temperature"], row.get("flags", []))
        for row in rows
        if "DATA" in row["fields"]["message"]
    ]


async def test_births_of_a_node_that_is_connected(tmp_path: Path):
    """They outlive a kill and changes of streams; a node without is asked, and what came meanwhile is read again."""
    with Gate(tmp_path / "gate") as gate:
        (tmp_path / "policy.yaml").write_text(POLICY)
        stream = {"filter": "spBv1.0/{group}/{message}/{node}/{unit...}", "codec": "sparkplug", "stream": "sparkplug"}
        (tmp_path / "stream.json").write_text(json.dumps(stream))
        (tmp_path / "changed.json").write_text(json.dumps({**stream, "keep_days": 9}))
        gate.run("policy", "set", "sparkplug", str(tmp_path / "policy.yaml"))
        gate.run("policy", "attach", "sparkplug", "--all")
        gate.run("stream", "set", "sparkplug", str(tmp_path / "stream.json"))
        for name in ("edge", "late"):
            gate.add(name)
        async with connected(gate.client("edge"), "edge") as node:
            await node.birth()
            await node.data(-6)
        await asyncio.to_thread(gate.stop, signal.SIGKILL)
        await asyncio.to_thread(gate.start)
        async with connected(gate.client("edge"), "edge") as node:
            await node.data(-7)
            gate.run("stream", "set", "sparkplug", str(tmp_path / "changed.json"))
            await node.data(-8)
            assert node.births == 0
        assert gate.json("quarantine", "list") == []
        assert [(unit, value) for unit, value, _ in temperatures(gate, "edge")] == [
            pair for number in (-6, -7, -8) for pair in (("", number), ("pump", 2**32 + number))
        ]
        async with connected(gate.client("late"), "late") as node:
            await asyncio.to_thread(wait_until, lambda: _subscribed(gate, "late"))
            await node.data(-9)
            await until(lambda: node.births == 1)
            await node.data(-10)
        assert [item["reason"] for item in gate.json("quarantine", "list")] == ["alias", "alias"]
        assert gate.json("quarantine", "replay", "--reason", "alias") == {"stored": 2, "kept": 0}
        found = [("", -9), ("pump", 2**32 - 9), ("", -10), ("pump", 2**32 - 10)]
        assert sorted(temperatures(gate, "late")) == sorted(
            (unit, value, ["later_birth"] if value in {-9, 2**32 - 9} else []) for unit, value in found
        )
        assert gate.total("fleetgate_rebirth_requests_total", outcome="sent") == 1
        gate.check_account()


def _subscribed(gate: Gate, name: str) -> bool:
    return any(f"NCMD/{name}" in one for one in json.loads(gate.get(f"/api/v1/connections/{name}"))["subscriptions"])


async def test_births_of_a_node_of_another_broker(mosquitto: Mosquitto, tmp_path: Path):  # noqa: F811
    """Asked for through the connection that its messages are read from, and known after a kill."""
    settings = tmp_path / "f.toml"
    settings.write_text(
        '[streams.sparkplug]\nfilter = "spBv1.0/{group}/{message}/{device}/{unit...}"\ncodec = "sparkplug"\n'
    )
    command = (
        "ingest",
        "--from",
        f"mqtt://127.0.0.1:{mosquitto.port}",
        "--topic",
        "spBv1.0/#",
        "--config",
        str(settings),
    )
    async with connected(aiomqtt.Client("127.0.0.1", mosquitto.port), "edge") as node:
        await node.birth()
        with Gate(tmp_path / "gate", command=command) as gate:
            await asyncio.to_thread(wait_until, lambda: gate.total("fleetgate_source_connected") == 1)
            await node.data(-6)
            await until(lambda: node.births == 2)
            await node.data(-7)
            await asyncio.to_thread(wait_until, lambda: ("pump", 2**32 - 7, []) in temperatures(gate, "edge"))
            assert gate.total("fleetgate_rebirth_requests_total", outcome="sent") == 1
            await asyncio.to_thread(gate.stop, signal.SIGKILL)
            await asyncio.to_thread(gate.start)
            await asyncio.to_thread(wait_until, lambda: gate.total("fleetgate_source_connected") == 1)
            await node.data(-8)
            await asyncio.to_thread(wait_until, lambda: ("pump", 2**32 - 8, []) in temperatures(gate, "edge"))
            assert ("", -8, []) in temperatures(gate, "edge")
            await until(lambda: node.births == 3)  # it may have been born while nobody listened
            kinds = {row["fields"]["message"] for row in gate.json("query", "edge", "--from", "-1h")}
            assert kinds == {"NBIRTH", "DBIRTH", "NDATA", "DDATA"}
