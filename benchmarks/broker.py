"""The whole way, MQTT over mTLS, QoS 1: ours against amqtt as it comes, over the same listener, in turns."""

import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import cpu_seconds, describe
from fleet.authority import read_request, signing_request
from fleet.files import write_private, write_public
from fleet.identity import Kind
from fleet.state import StateFolder
from fleetgate.core import open_core
from fleetgate.settings import Settings

ROUNDS = 3
CONNECTIONS = 1000
SHAPES = (
    # name, connections, in flight each, messages (stock, ours), messages a second (0: closed-loop)
    ("gateway, closed-loop", 8, 500, (40_000, 800_000), 0),
    ("gateway, open-loop", 8, 500, (10_000, 10_000), 1500),
    ("fleet, closed-loop", CONNECTIONS, 1, (15_000, 100_000), 0),
    ("fleet, open-loop", CONNECTIONS, 1, (10_000, 10_000), 1000),
)


def main() -> None:
    """Measure every shape in both brokers, in turns."""
    print(describe())
    print("| shape | broker | messages/s | p50 ms | p95 ms | p99 ms | server CPU µs a message | against stock |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        state = StateFolder(Path(folder) / "state")
        clients = Path(folder) / "clients"
        clients.mkdir()
        asyncio.run(provision(state, clients))
        for title, connections, window, messages, rate in SHAPES:
            found: dict[str, list[dict[str, Any]]] = {"stock amqtt": [], "fleetgate": []}
            for _ in range(ROUNDS):
                for name, command, count in (
                    ("stock amqtt", ["-m", "benchmarks.stock_broker", str(state.path)], messages[0]),
                    ("fleetgate", ["-m", "fleetgate", "--state", str(state.path), "serve", *BINDS], messages[1]),
                ):
                    found[name].append(measure(command, clients, connections, window, count, rate))
            report(title, found)


BINDS = ["--mqtt-bind", "127.0.0.1:0", "--http-bind", "127.0.0.1:0"]


async def provision(state: StateFolder, clients: Path) -> None:
    """Register a device, with a certificate of its own, for each connection."""
    async with open_core(Settings(), state) as core:
        write_public(clients / "ca.pem", core.authority.ca_pem)
        for number in range(1, CONNECTIONS + 1):
            name = f"sim-{number:05}"
            key, request = signing_request(name)
            issued = core.authority.issue(Kind.DEVICE, name, read_request(request))
            await core.registry.add(Kind.DEVICE, name, issued.certificate)
            write_private(clients / f"{name}-key.pem", key)
            write_public(clients / f"{name}.pem", issued.pem)


def measure(
    command: list[str], clients: Path, connections: int, window: int, messages: int, rate: float
) -> dict[str, Any]:
    """Start a broker and a generator; what the generator saw, and the broker's CPU time a message."""
    with process(command) as (server, ready):
        address = ready.split("mqtts=")[1].split()[0]
        arguments = [address, str(clients), str(connections), str(window), str(messages), str(rate)]
        with process(["-m", "benchmarks.generator", *arguments]) as (generator, _connected):
            before = cpu_seconds(server.pid)
            assert generator.stdin is not None
            assert generator.stdout is not None
            generator.stdin.write("go\n")
            generator.stdin.flush()
            started = time.perf_counter()
            result: dict[str, Any] = json.loads(generator.stdout.readline())
            # amqtt acknowledges before it hands a message to a plugin: the rate counts until the last one was.
            deadline = time.monotonic() + 60
            while (done := counted(server, ready)) < result["messages"]:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{done} of {result['messages']} messages were handled")
                time.sleep(0.02)
            result["rate"] = result["messages"] / (time.perf_counter() - started)
            result["cpu_us"] = (cpu_seconds(server.pid) - before) / result["messages"] * 1e6
            generator.communicate("done\n", timeout=30)
    return result


def counted(server: subprocess.Popen[str], ready: str) -> int:
    """Ask how many messages are done: counted by the stock broker's plugin, stored by ours."""
    if "http=" not in ready:
        assert server.stdout is not None
        server.send_signal(signal.SIGUSR1)
        return int(server.stdout.readline())
    text = httpx.get(f"http://{ready.split('http=')[1].strip()}/metrics", trust_env=False).text
    (line,) = [line for line in text.splitlines() if line.startswith("fleetgate_messages_stored_total ")]
    return int(float(line.split()[1]))


@contextmanager
def process(arguments: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process and its first line; ended with the block."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            assert started.stdout is not None
            yield started, started.stdout.readline()
        finally:
            started.terminate()
            started.wait(30)


def report(shape: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the medians of both, and ours against theirs."""
    stock = statistics.median(result["rate"] for result in found["stock amqtt"])
    for name, results in found.items():
        middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
        print(
            f"| {shape} | {name} | {middle['rate']:,.0f} | {middle['p50_ms']:.1f} | {middle['p95_ms']:.1f} |"
            f" {middle['p99_ms']:.1f} | {middle['cpu_us']:.0f} | {middle['rate'] / stock:.2f} |",
            flush=True,
        )
