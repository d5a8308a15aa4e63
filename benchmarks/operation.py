"""What running a fleet costs its telemetry: devices that come and go in waves, the API asked meanwhile, a backup."""

import asyncio
import json
import sys
import time
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from typing import Any

import httpx

from benchmarks.machine import describe
from benchmarks.pauses import Pauses, stalls
from benchmarks.processes import Clients, Fleet, Process, Server, fleet, fleetgate, process
from benchmarks.registry import fill, listed_devices
from fleetgate.app import serving
from fleetgate.cli.target import run
from fleetgate.logs import logging_to
from fleetgate.settings import Settings

DEVICES = 10_000
SENDERS = 200
WAVES = 3
RATE = 3000
SECONDS = 60
ASK_RATE = 2000


def main() -> None:
    """Measure all of it."""
    print(describe())
    with fleet(DEVICES) as made:
        _waves(made)
    with fleet(SENDERS) as made:
        run(fill(made.state, listed_devices()))
        run(_asked(made))
        _backed_up(made)


def _waves(made: Fleet) -> None:
    """Senders at a steady rate, alone, and while all others connect and leave again and again."""
    others = DEVICES - SENDERS
    with (
        fleetgate(made) as server,
        Clients(server, made, SENDERS) as senders,
        Clients(server, made, others // 2, SENDERS + 1) as one,
        Clients(server, made, others - others // 2, SENDERS + 1 + others // 2) as other,
    ):
        for clients in (one, other):
            clients.do("leave")
        alone = senders.do("load", window=1, messages=RATE * SECONDS // 3, rate=RATE)
        senders.tell("load", window=1, messages=RATE * SECONDS, rate=RATE)
        started, wrong, coming = time.perf_counter(), 0, []
        for _ in range(WAVES):
            for clients in (one, other):
                clients.tell("connect")
            coming += [clients.answer()["seconds"] for clients in (one, other)]
            wrong += _connected(made, DEVICES) != DEVICES
            for clients in (one, other):
                clients.do("leave")
            wrong += _connected(made, SENDERS) != SENDERS
        took = time.perf_counter() - started
        meanwhile = senders.answer()
        events = _events(made)
    print(f"{WAVES} waves of {others:,} devices in {took:.0f} s, the slowest came in {max(coming):.1f} s")
    print(f"presence was wrong {wrong} of {2 * WAVES} times")
    print(f"events of a device in its timeline, of {2 * (WAVES + 1)}: {events}")
    _say(alone=alone, meanwhile=meanwhile)


def _say(**found: dict[str, Any]) -> None:
    for when, sent in found.items():
        latency = f"PUBACK p50 {sent['p50_ms']} ms, p99 {sent['p99_ms']} ms"
        print(f"{RATE:,} messages/s due, {when}: {sent['rate']:,.0f}/s, {latency}")


def _connected(made: Fleet, wanted: int) -> int:
    """How many devices are connected by the API; the sockets' ends take a moment to arrive."""
    deadline = time.monotonic() + 10
    while True:
        (count,) = _get(made, "/device-counts", query="connected:true")
        if count["count"] == wanted or time.monotonic() > deadline:
            return int(count["count"])
        time.sleep(0.05)


def _events(made: Fleet) -> set[int]:
    deadline = time.monotonic() + 30
    while True:
        found = {len(_get(made, f"/devices/sim-{number:05}/timeline")) for number in range(SENDERS + 1, DEVICES, 97)}
        if found == {2 * (WAVES + 1)} or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def _get(made: Fleet, path: str, **params: Any) -> Any:
    address = json.loads((made.state.path / "server.json").read_text())["http"]
    headers = {"Authorization": f"Bearer {made.state.token()}"}
    answer = httpx.get(f"http://{address}/api/v1{path}", params=params, headers=headers, trust_env=False, timeout=30)
    return answer.raise_for_status().json()


async def _asked(made: Fleet) -> None:
    """The API of a server in this process, asked by another one while devices send; and how long its loop stood."""
    settings = Settings(mqtt={"bind": "127.0.0.1:0", "flapping_connects": 0}, http={"bind": "127.0.0.1:0"})
    async with AsyncExitStack() as stack:
        stack.enter_context(logging_to(None, "warning", 1, 1))
        core, addresses = await stack.enter_async_context(serving(settings, made.state))
        server = Server(addresses.by_scheme()["mqtts"], ())
        clients = await asyncio.to_thread(stack.enter_context, _connecting(server, made))
        print(f"{await core.inventory.count(''):,} devices, {ASK_RATE:,} messages/s")
        for asked, watched in ((False, True), (True, False), (True, True)):
            with ExitStack() as turn:
                # Who asks and who watches are there before anybody looks at the loop: starting them holds it up.
                # Answers are looked at without watchers, too: with them they take some milliseconds longer.
                asking = await asyncio.to_thread(turn.enter_context, _asking(made)) if asked else None
                stalled = await asyncio.to_thread(turn.enter_context, stalls()) if watched else []
                pauses = Pauses()
                watching = asyncio.create_task(pauses.watch())
                load = {"window": 1, "messages": ASK_RATE * 30, "rate": ASK_RATE}
                sent = await asyncio.to_thread(clients.do, "load", **load)
                printed = await asyncio.to_thread(_answers, *asking) if asking else ""
                watching.cancel()
            when = "asked" if asked else "alone"
            print(f"{printed}{when}: {sent['rate']:,.0f} messages/s, PUBACK p99 {sent['p99_ms']} ms")
            if watched:
                print(f"the loop's pauses: {pauses.described(stalled)}")


def _asking(made: Fleet) -> AbstractContextManager[tuple[Process, str]]:
    """Who asks the API, and the first line of what it prints."""
    return process([sys.executable, "-m", "benchmarks.asking", str(made.state.path)])


def _answers(asking: Process, begun: str) -> str:
    """How long they took, when it is done."""
    assert asking.stdout is not None
    printed = begun + asking.stdout.read()
    assert asking.wait() == 0
    return printed


def _connecting(server: Server, made: Fleet) -> Clients:
    return Clients(server, made, SENDERS)


def _backed_up(made: Fleet) -> None:
    """Senders at a steady rate, alone, and while the state is backed up again and again."""
    with fleetgate(made) as server, Clients(server, made, SENDERS) as senders:
        alone = senders.do("load", window=1, messages=RATE * 20, rate=RATE)
        senders.tell("load", window=1, messages=RATE * 20, rate=RATE)
        times, number, until = [], 0, time.monotonic() + 18
        while time.monotonic() < until:
            number += 1
            started = time.perf_counter()
            size = _back_up(made, number)
            times.append(time.perf_counter() - started)
        meanwhile = senders.answer()
    print(f"{len(times)} backups of {size / 1e6:.1f} MB, each in {max(times):.1f} s at most")
    _say(alone=alone, meanwhile=meanwhile)


def _back_up(made: Fleet, number: int) -> int:
    address = json.loads((made.state.path / "server.json").read_text())["http"]
    headers = {"Authorization": f"Bearer {made.state.token()}"}
    with httpx.Client(base_url=f"http://{address}/api/v1", headers=headers, trust_env=False, timeout=60) as client:
        body = {"file": str(made.clients.parent / f"{number}.backup"), "passphrase": "correct horse"}
        path = client.post("/backups", json=body).raise_for_status().headers["Location"].removeprefix("/api/v1")
        while (found := client.get(path).json())["state"] == "running":
            time.sleep(0.05)
    return int(found["result"]["bytes"])
