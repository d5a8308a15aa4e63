"""What connections cost, and what many of them cost each other: memory, a storm of them, one subscriber among many."""

import statistics
import time

from benchmarks.machine import describe, memory_bytes
from benchmarks.processes import Clients, Fleet, fleet, fleetgate

DEVICES = 5000
STORM_SECONDS = 45
MESSAGES = 20_000
FILTERS = [
    "devices/{device}/commands", "devices/{device}/config", "devices/{device}/firmware/#", "devices/{device}/+/get",
    "devices/{device}/shadow/update/delta",
]  # fmt: skip


def main() -> None:
    """Measure all of it, in servers of their own."""
    print(describe())
    with fleet(DEVICES) as made:
        idle_and_storm(made)
        fan_out(made)


def idle_and_storm(made: Fleet) -> None:
    """Memory of connections that are idle, after traffic on all of them, and after all of them came anew at once."""
    half = DEVICES // 2
    with fleetgate(made) as server:
        empty = memory_bytes(server.pid)

        def each() -> str:
            return f"{(memory_bytes(server.pid) - empty) / DEVICES / 1000:.1f} kB each"

        with Clients(server, made, half) as one, Clients(server, made, half, half + 1) as other:
            print(f"{DEVICES} idle mTLS connections, registry and sessions included: {each()}")
            both(one, other, "load", window=1, messages=5 * half, rate=0)
            print(f"after traffic on all of them: {each()}")
            before, cpu, started = memory_bytes(server.pid), server.cpu_seconds(), time.perf_counter()
            found = both(one, other, "storm", seconds=STORM_SECONDS)
            print(
                f"{DEVICES} reconnecting at once from 2 processes: {sum(result['failed'] for result in found)} failed"
                f" {[why for result in found for why in result['why']] or ''}, first after"
                f" {min(result['first_s'] for result in found):.2f} s, last after"
                f" {max(result['last_s'] for result in found):.1f} s;"
                f" {sum(result['messages'] for result in found):,} messages meanwhile, PUBACK p50"
                f" {statistics.mean(result['p50_ms'] for result in found):.1f} ms, p99"
                f" {max(result['p99_ms'] for result in found):.0f} ms"
            )
            used = (server.cpu_seconds() - cpu) / (time.perf_counter() - started)
            print(
                f"memory before {before / 1e6:.0f} MB, after {memory_bytes(server.pid) / 1e6:.0f} MB;"
                f" {used:.0%} of a core over {STORM_SECONDS} s"
            )


def both(one: Clients, other: Clients, do: str, **arguments: float) -> list[dict[str, float]]:
    """The same command to both generators, at once."""
    one.tell(do, **arguments)
    other.tell(do, **arguments)
    return [one.answer(), other.answer()]


def fan_out(made: Fleet) -> None:
    """A device's messages to itself, with 50 devices that subscribe, and with all of them: what one message costs."""
    print("| devices with 5 filters each | server CPU µs a message |")
    print("|---|---|")
    for devices in (50, DEVICES):
        with (
            fleetgate(made) as server,
            Clients(server, made, 1) as one,
            Clients(server, made, devices - 1, 2) as others,
        ):
            one.do("subscribe", filters=FILTERS)
            others.do("subscribe", filters=FILTERS)
            used = []
            for turn in range(1, 4):
                before = server.cpu_seconds()
                one.do("load", window=100, messages=MESSAGES, rate=0, to="devices/sim-00001/commands")
                one.do("received", messages=MESSAGES * turn)
                used.append((server.cpu_seconds() - before) / MESSAGES * 1e6)
            print(f"| {devices} | {statistics.median(used):.1f} |", flush=True)
