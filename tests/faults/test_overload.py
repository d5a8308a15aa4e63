"""More than there is room for: more load than capacity, one device that sends too much, everybody at once."""

import asyncio
import time
from pathlib import Path

import pytest

from benchmarks.connections import both
from benchmarks.machine import memory_bytes
from benchmarks.processes import Clients, fleet, fleetgate
from tests.faults.sender import Sender, check, provision, sending
from tests.system.gate import Gate
from tests.waiting import until, wait_until

pytestmark = pytest.mark.system


async def goodput(senders: list[Sender], seconds: float) -> tuple[float, list[int]]:
    """Acknowledged a second, and by each, over some seconds of a load that runs."""
    before = [len(sender.acknowledged) for sender in senders]
    started = time.monotonic()
    await asyncio.sleep(seconds)  # what is measured is a rate
    counts = [len(sender.acknowledged) - count for sender, count in zip(senders, before, strict=True)]
    return sum(counts) / (time.monotonic() - started), counts


def quantile(latencies: list[float]) -> float:
    """The longest of 99 in a hundred."""
    return sorted(latencies)[int(len(latencies) * 0.99)]


def recent_p99(senders: list[Sender]) -> float:
    """Seconds to 99 in a hundred acknowledgements since this was last asked."""
    found = [latency for sender in senders for latency in sender.latencies]
    for sender in senders:
        sender.latencies.clear()
    return quantile(found)


@pytest.mark.timeout(400)
async def test_three_times_the_load(tmp_path: Path, long: bool):
    """Case 21: goodput does not collapse (long form), everybody has the same share, acknowledgements stay in bounds."""
    gate = Gate(tmp_path)
    names = [f"d{number}" for number in range(12)]
    await provision(gate, names)
    with gate:
        senders = [Sender(gate, name, window=400) for name in names]
        async with sending(senders[:4]):
            await until(lambda: all(len(sender.acknowledged) > 500 for sender in senders[:4]))
            peak, _ = await goodput(senders[:4], 20 if long else 0.5)
        for sender in senders[:4]:
            sender.begin_again()
        async with sending(senders):
            await until(lambda: all(len(sender.acknowledged) > 500 for sender in senders))
            under, counts = await goodput(senders, 60 if long else 1)
        fairness = sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts))
        p99 = quantile([latency for sender in senders for latency in sender.latencies[-1000:]])
        print(f"peak {peak:,.0f}/s, at three times the load {under:,.0f}/s, fairness {fairness:.3f}, p99 {p99:.2f} s")
        assert fairness >= 0.95
        assert p99 < 10 * 12 * 400 / under, "an acknowledgement waits for what is in flight, not for ever"
        if long:
            assert under >= 0.9 * peak
        gate.check_account()
        assert gate.stop() == 0
    assert await check(gate.state, senders) == sum(sender.sent for sender in senders)


@pytest.mark.timeout(200)
async def test_one_device_beyond_its_rate(tmp_path: Path, long: bool):
    """Case 22: only that one is slowed down, to its rate; it loses nothing, and the others do not notice."""
    rate, seconds = 100, 20 if long else 3
    gate = Gate(tmp_path, environment={"FLEETGATE__MQTT__DEVICE_RATE": str(rate)})
    names = ["hot", "d1", "d2", "d3"]
    await provision(gate, names)
    with gate:
        others = [Sender(gate, name, window=1, pause=0.02) for name in names[1:]]
        hot = Sender(gate, "hot", window=rate)  # acknowledged at once, and then nothing for a second
        async with sending(others):
            await until(lambda: all(len(sender.acknowledged) > 20 for sender in others))
            recent_p99(others)
            alone, _ = await goodput(others, seconds)
            alone_p99 = recent_p99(others)
            async with sending([hot]):
                # Beyond what it may send at once.
                await until(lambda: len(hot.acknowledged) > 4 * rate, 30)
                started, before = time.monotonic(), len(hot.acknowledged)
                for sender in others:
                    sender.latencies.clear()
                beside, _ = await goodput(others, seconds)
                beside_p99 = recent_p99(others)
                found = (len(hot.acknowledged) - before) / (time.monotonic() - started)
        print(f"hot {found:.0f}/s of {rate}; others {alone:.0f}/s alone, {beside:.0f}/s beside it,"
              f" p99 {alone_p99 * 1000:.1f} and {beside_p99 * 1000:.1f} ms")  # fmt: skip
        assert 0.5 * rate < found < 2 * rate
        assert beside > 0.7 * alone
        if long:
            assert beside_p99 <= 1.2 * alone_p99
        gate.check_account()
        assert gate.stop() == 0
    assert await check(gate.state, [hot, *others]) == sum(sender.sent for sender in [hot, *others])


@pytest.mark.timeout(400)
def test_everybody_at_once(long: bool):
    """Case 23: all sockets are gone, all devices are back at once, from two processes. Nobody is refused, those who are
    back are served meanwhile, and memory is where it was.
    """
    half = 2500 if long else 75
    with fleet(2 * half) as made, fleetgate(made) as server:
        with Clients(server, made, half) as one, Clients(server, made, half, half + 1) as other:
            both(one, other, "load", window=1, messages=5 * half, rate=0)
            before = memory_bytes(server.pid)
            found = both(one, other, "storm", seconds=45 if long else 4)
            assert [result["failed"] for result in found] == [0, 0], found
            assert server.handled is not None
            sent = sum(result["messages"] for result in found) + 2 * 5 * half
            assert sent > 2 * 5 * half
            wait_until(lambda: server.handled() >= sent, 60)
            after = memory_bytes(server.pid)
        print(f"{2 * half} back after {max(result['last_s'] for result in found):.1f} s,"
              f" {before / 1e6:.0f} -> {after / 1e6:.0f} MB")  # fmt: skip
        assert after < before * 1.1 + 10_000_000
        assert made.stored() == sent
