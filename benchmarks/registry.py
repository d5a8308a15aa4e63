"""What a fleet of 100,000 devices costs: importing it, asking about it, connecting beside it, revoking one of many."""

import asyncio
import io
import random
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from os import getpid
from pathlib import Path

import httpx
from cryptography import x509

from benchmarks.machine import describe, memory_bytes
from benchmarks.pauses import Pauses
from benchmarks.processes import Clients, Fleet, Server, fleet, fleetgate
from fleet.errors import InvalidCertificateError
from fleet.provisioning.bulk import register
from fleet.provisioning.rows import Form, Row, read
from fleet.registry.details import ValueKind
from fleet.registry.types import DeviceType
from fleet.state import StateFolder
from fleetgate.cli.target import run
from fleetgate.core import Core, open_core
from fleetgate.settings import Settings

DEVICES = 100_000
CONNECTED = 5000
CONNECTS = 500
ROUNDS = 5
QUERIES = [
    'type:pump AND attributes.fw<"1.4.0" AND connected:true AND NOT tag:lab AND last_seen<now-2h',
    "attributes.serial:SN00050000",
    "site:site-7 AND attributes.floor>=30",
    "tag:lab AND type:pump",
    "name:dev-0500*",
]


def main() -> None:
    """Measure all of it."""
    print(describe())
    listed = listed_devices()
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        run(_inside(StateFolder(Path(folder).resolve() / "state"), listed))
    with fleet(CONNECTS) as made:
        few = _connect(made)
        run(fill(made.state, listed))
        print(f"a connect beside {CONNECTS} devices {few:.0f} µs CPU, beside {DEVICES:,} more {_connect(made):.0f} µs")
    with fleet(CONNECTED) as made, fleetgate(made) as server, Clients(server, made, CONNECTED - 1, 2):
        print(f"revocation to closed socket, {CONNECTED:,} connected: {_revoke(server, made) * 1000:.1f} ms")


def listed_devices() -> str:
    """A list of DEVICES devices, as CSV."""
    chance = random.Random(1)
    lines = ["name,display_name,type,site,tags,attributes.fw,attributes.serial,attributes.floor:number\n"]
    for number in range(DEVICES):
        firmware = f"1.{chance.randrange(20)}.{chance.randrange(50)}"
        lines.append(
            f"dev-{number:06},Device {number},{('pump', 'valve')[number % 2]},site-{number % 100},"
            f"{'' if number % 10 else 'lab'},{firmware},SN{number:08},{number // 7 % 40}\n"
        )
    return "".join(lines)


async def _inside(state: StateFolder, listed: str) -> None:
    before = memory_bytes(getpid())
    async with open_core(Settings(), state) as core:
        pauses = Pauses()
        watching = asyncio.create_task(pauses.watch())
        started = time.perf_counter()
        await _import(core, listed)
        took = time.perf_counter() - started
        watching.cancel()
        print(
            f"{DEVICES:,} devices imported from CSV in {took:.1f} s, longest pause of the loop"
            f" {pauses.longest * 1000:.1f} ms, {(memory_bytes(getpid()) - before) / 1e6:.0f} MB"
        )
        print("| query | found | first page, ms | count, ms |")
        print("|---|---|---|---|")
        for query in QUERIES:
            count = await core.inventory.count(query)
            page, counted = [], []
            for _ in range(ROUNDS):
                page.append(await _seconds(lambda query=query: core.inventory.find(query, "", 200)))
                counted.append(await _seconds(lambda query=query: core.inventory.count(query)))
            print(f"| `{query}` | {count:,} | {min(page) * 1000:.1f} | {min(counted) * 1000:.1f} |")
        by = await _seconds(lambda: core.inventory.count_by("", "attributes.fw"))
        print(f"all of them counted by an attribute: {by * 1000:.0f} ms")
    started = time.perf_counter()
    async with open_core(Settings(), state):
        print(f"opened again in {time.perf_counter() - started:.1f} s")


async def fill(state: StateFolder, listed: str) -> None:
    """Register a list of devices in a state folder."""
    async with open_core(Settings(), state) as core:
        await _import(core, listed)


async def _import(core: Core, listed: str) -> None:
    for name in ("pump", "valve"):
        await core.types.put(DeviceType(name, required={"fw": ValueKind.STRING}))
    report = await register(core.registry, core.inventory, read(io.StringIO(listed), Form.CSV), _no_certificate)
    assert (report.added, report.bad_count) == (DEVICES, 0), report.bad[:3]


async def _no_certificate(row: Row) -> list[x509.Certificate]:
    raise InvalidCertificateError(f"{row.name} has a certificate")


async def _seconds(ask: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await ask()
    return time.perf_counter() - started


def _connect(made: Fleet) -> float:
    """Server CPU of one connect, in microseconds; the median of some rounds."""
    found = []
    with fleetgate(made) as server:
        for _ in range(ROUNDS):
            before = server.cpu_seconds()
            with Clients(server, made, CONNECTS):
                found.append((server.cpu_seconds() - before) / CONNECTS * 1e6)
    return statistics.median(found)


def _revoke(server: Server, made: Fleet) -> float:
    """Seconds from the request that revokes a device's certificate to the end of its connection."""
    host, port = server.address.rsplit(":", 1)
    name = "sim-00001"
    context = ssl.create_default_context(cafile=made.clients / "ca.pem")
    context.load_cert_chain(made.clients / f"{name}.pem", made.clients / f"{name}-key.pem")
    with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname="localhost") as client:
        client.sendall(b"\x10%c\x00\x04MQTT\x04\x02\x00\x3c\x00%c%b" % (12 + len(name), len(name), name.encode()))
        assert client.recv(4) == b"\x20\x02\x00\x00"
        url = f"http://{made.state.server()['http']}/api/v1/devices/{name}"
        with httpx.Client(headers={"Authorization": f"Bearer {made.state.token()}"}, trust_env=False) as operator:
            operator.get(url).raise_for_status()
            started = time.perf_counter()
            operator.post(f"{url}/revoke").raise_for_status()
            assert client.recv(1) == b""
            return time.perf_counter() - started
