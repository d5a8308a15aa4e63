"""Case 25: devices that come, publish and go, again and again. Nothing of them stays: memory, tasks, files."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.faults.rounds import rounds
from tests.faults.sender import connect, provision, tls
from tests.system.gate import Gate
from tests.waiting import wait_until

pytestmark = pytest.mark.system

DEVICES = 24
LEFT_BYTES = 5_000_000
"""More than that of the second five minutes (some 100,000 visits) is a leak: 50 bytes a visit are less than any object
of ours. The heap alone goes up and down by half of it.
"""


@pytest.mark.timeout(2700)
async def test_coming_and_going(tmp_path: Path, long: bool):
    """With and without DISCONNECT, with a will, with half a packet left behind. Ten minutes a round."""
    for number, chance in enumerate(rounds("churn", 3 if long else 1, long=long)):
        gate = Gate(tmp_path / str(number), environment={"FLEETGATE__MQTT__FLAPPING_CONNECTS": "0"})
        names = [f"d{number}" for number in range(DEVICES if long else 6)]
        await provision(gate, names)
        with gate:
            memory = await _round(gate, names, chance, 600 if long else 6)
        half = memory[len(memory) // 2 :]
        slope = _slope(half)
        print(f"memory {memory[0][1] / 1e6:.1f} -> {memory[-1][1] / 1e6:.1f} MB, {slope * 3600 / 1e6:.2f} MB an hour")
        if long:
            assert slope * (half[-1][0] - half[0][0]) < LEFT_BYTES
        assert "Traceback" not in gate.errors(), gate.errors()


async def _round(gate: Gate, names: list[str], chance: random.Random, seconds: float) -> list[tuple[float, float]]:
    """Visits for some time, and nothing of them left: what was in memory when."""
    counts = dict.fromkeys(names, 0)
    memory: list[tuple[float, float]] = []
    await asyncio.gather(*(_visits(gate, name, counts, chance, 3, 0) for name in names))  # all code was run once
    await asyncio.to_thread(wait_until, lambda: gate.total("fleetgate_connections") == 0)
    before = gate.metrics()
    until = time.monotonic() + seconds

    async def look() -> None:
        while time.monotonic() < until:
            found = await asyncio.to_thread(gate.metrics)
            memory.append((time.monotonic(), found["process_resident_memory_bytes"]))
            await asyncio.sleep(seconds / 120)

    await asyncio.gather(look(), *(_visits(gate, name, counts, chance, 10**9, until) for name in names))
    await asyncio.to_thread(wait_until, lambda: gate.total("fleetgate_connections") == 0)
    expected = sum(counts.values())
    await asyncio.to_thread(gate.wait_for, "fleetgate_messages_stored_total", expected)
    after = await asyncio.to_thread(gate.metrics)
    gate.check_account()
    visits = after['fleetgate_connects_total{outcome="accepted",reason=""}']
    print(f"{visits:.0f} visits, {expected} messages")
    assert after["fleetgate_tasks"] <= before["fleetgate_tasks"]
    assert after["process_open_fds"] <= before["process_open_fds"]
    assert after["fleetgate_sessions"] == 0
    return memory


async def _visits(
    gate: Gate, name: str, counts: dict[str, int], chance: random.Random, visits: int, until: float
) -> None:
    host, port = gate.mqtt
    context = tls(gate, name)
    topic = f"devices/{name}/telemetry".encode()
    while visits and (not until or time.monotonic() < until):
        visits -= 1
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="localhost")
        try:
            will = (f"devices/{name}/events/gone", "half") if chance.random() < 0.5 else ()
            writer.write(connect(name, will=will))
            assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
            messages = chance.randrange(20)
            for packet_id in range(1, messages + 1):
                body = len(topic).to_bytes(2) + topic + packet_id.to_bytes(2) + b'{"n": %d}' % packet_id
                writer.write(b"\x32%c" % len(body) + body)
            await reader.readexactly(4 * messages)
            counts[name] += messages
            ending = chance.random()
            if ending < 0.5:
                writer.write(b"\xe0\x00")
            elif ending < 0.7:
                writer.write(b"\x32\x7f\x00\x10half a packet")
            await writer.drain()
        finally:
            writer.transport.abort() if chance.random() < 0.5 else writer.close()


def _slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line through points, by least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
