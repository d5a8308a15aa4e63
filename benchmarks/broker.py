"""The whole way, MQTT over mTLS, QoS 1: ours, and others behind the same certificates, in turns."""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.machine import describe
from benchmarks.processes import Clients, Fleet, Server, at_once, fleet, fleetgate, mosquitto, stock_amqtt

ROUNDS = 3
DEVICES = 1000
_DONE_SECONDS = 120

OURS, STOCK = "fleetgate", "stock amqtt"
SERVERS: dict[str, Callable[[Fleet], AbstractContextManager[Server]]] = {
    STOCK: stock_amqtt,
    "Mosquitto, nothing stored": mosquitto,
    "Mosquitto, paho, SQLite": partial(mosquitto, stored=True),
    "fleetgate, acknowledging at once": at_once,
    OURS: fleetgate,
}


@dataclass(frozen=True)
class Shape:
    """A load: `window` messages ahead for each of `connections`, or `rate` a second, each at its own time."""

    name: str
    connections: int
    window: int
    rate: float
    messages: dict[str, int]
    """How many, for each server that is to take part: a few seconds' worth."""


SHAPES = (
    Shape(
        "gateway", 8, 500, 0,
        {
            STOCK: 40_000,
            "Mosquitto, nothing stored": 400_000,
            "Mosquitto, paho, SQLite": 100_000,
            "fleetgate, acknowledging at once": 800_000,
            OURS: 800_000,
        },
    ),
    Shape("fleet", DEVICES, 1, 0, {STOCK: 15_000, "Mosquitto, nothing stored": 200_000, OURS: 200_000}),
    Shape("one device", 1, 1000, 0, {STOCK: 20_000, OURS: 400_000}),
    Shape("fleet, 10,000 a second", DEVICES, 1, 10_000, {"Mosquitto, nothing stored": 100_000, OURS: 100_000}),
    Shape("fleet, 1,000 a second", DEVICES, 1, 1000, {STOCK: 10_000, OURS: 10_000}),
)  # fmt: skip


def main() -> None:
    """Measure every shape in every server, in turns."""
    print(describe())
    print("| shape | server | messages/s | p50 ms | p95 ms | p99 ms | server CPU µs a message | against stock |")
    print("|---|---|---|---|---|---|---|---|")
    with fleet(DEVICES) as made:
        for shape in SHAPES:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in shape.messages}
            for _ in range(ROUNDS):
                for name, messages in shape.messages.items():
                    found[name].append(measure(SERVERS[name], made, shape, messages))
            report(shape, found)


def sustained(messages: int = 12_000_000) -> None:
    """The gateway shape for about a minute; the rows are counted in the file afterwards."""
    print(describe())
    with fleet(8) as made:
        found = measure(fleetgate, made, Shape("", 8, 500, 0, {}), messages)
        assert made.stored() == found["messages"] == messages, (made.stored(), found)
    print(f"{messages:,} messages: {found['rate']:,.0f}/s, p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms,")
    print(f"{found['cpu_us']:.1f} µs CPU a message; {messages:,} in the journal, counted in the file")


def measure(
    serve: Callable[[Fleet], AbstractContextManager[Server]], made: Fleet, shape: Shape, messages: int
) -> dict[str, float]:
    """Start a server and a generator; what the generator saw, and the server's CPU time a message."""
    with serve(made) as server, Clients(server, made, shape.connections) as clients:
        before, started = server.cpu_seconds(), time.perf_counter()
        result = clients.do("load", window=shape.window, messages=messages, rate=shape.rate)
        if server.handled is not None:
            # Some acknowledge before a message is where it is meant to go: the rate counts until the last one is.
            wait_for(server.handled, result["messages"])
            result["rate"] = result["messages"] / (time.perf_counter() - started)
        result["cpu_us"] = (server.cpu_seconds() - before) / result["messages"] * 1e6
    return result


def wait_for(handled: Callable[[], int], messages: int) -> None:
    """Wait until a server is done with so many."""
    deadline = time.monotonic() + _DONE_SECONDS
    while (done := handled()) < messages:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{done} of {messages} messages were handled")
        time.sleep(0.02)


def report(shape: Shape, found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the medians of each."""
    stock = statistics.median(result["rate"] for result in found[STOCK]) if STOCK in found else None
    for name, results in found.items():
        middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
        against = f"{middle['rate'] / stock:.2f}" if stock else ""
        print(
            f"| {shape.name} | {name} | {middle['rate']:,.0f} | {middle['p50_ms']:.1f} | {middle['p95_ms']:.1f} |"
            f" {middle['p99_ms']:.1f} | {middle['cpu_us']:.1f} | {against} |",
            flush=True,
        )
