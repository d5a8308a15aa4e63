"""Processes of a benchmark: the servers that are compared, and what sends to them."""

import asyncio
import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from benchmarks.machine import cpu_seconds
from fleet.authority import read_request, signing_request
from fleet.files import write_private, write_public
from fleet.identity import Kind
from fleet.state import StateFolder
from fleetgate.core import open_core
from fleetgate.settings import Settings

Process = subprocess.Popen[str]
_BINDS = ["--mqtt-bind", "127.0.0.1:0", "--http-bind", "127.0.0.1:0"]


@dataclass(frozen=True)
class Fleet:
    """A state folder with registered devices, and a folder with their certificates."""

    state: StateFolder
    clients: Path

    def stored(self) -> int:
        """Messages in the journal, counted in the file."""
        journal = sqlite3.connect(self.state.telemetry / "journal.db", timeout=30)
        try:
            (count,) = journal.execute("SELECT sum(coalesce(length(lengths) / 4, 1)) FROM journal").fetchone()
        finally:
            journal.close()
        return count or 0


@contextmanager
def fleet(devices: int) -> Iterator[Fleet]:
    """Register devices, each with a certificate of its own, in a folder on the disk of the working directory."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        made = Fleet(StateFolder(Path(folder).resolve() / "state"), Path(folder).resolve() / "clients")
        made.clients.mkdir()
        asyncio.run(_provision(made, devices))
        yield made


async def _provision(made: Fleet, devices: int) -> None:
    async with open_core(Settings(), made.state) as core:
        write_public(made.clients / "ca.pem", core.authority.ca_pem)
        for number in range(1, devices + 1):
            name = f"sim-{number:05}"
            key, request = signing_request(name)
            issued = core.authority.issue(Kind.DEVICE, name, read_request(request))
            await core.registry.add(Kind.DEVICE, name, issued.certificate)
            write_private(made.clients / f"{name}-key.pem", key)
            write_public(made.clients / f"{name}.pem", issued.pem)


@dataclass(frozen=True)
class Server:
    """A server under test. `handled` says how many messages it is done with; None: those it acknowledged."""

    address: str
    processes: tuple[Process, ...]
    handled: Callable[[], int] | None = None

    @property
    def pid(self) -> int:
        """Its first process."""
        return self.processes[0].pid

    def cpu_seconds(self) -> float:
        """CPU time of all its processes."""
        return sum(cpu_seconds(process.pid) for process in self.processes)


@contextmanager
def fleetgate(made: Fleet, module: str = "fleetgate") -> Iterator[Server]:
    """Ours. A message is handled when it is stored."""
    with process([sys.executable, "-m", module, "--state", str(made.state.path), "serve", *_BINDS]) as (server, ready):
        addresses = dict(part.split("=") for part in ready.split()[1:])

        def handled() -> int:
            text = httpx.get(f"http://{addresses['http']}/metrics", trust_env=False).text
            (line,) = [line for line in text.splitlines() if line.startswith("fleetgate_messages_stored_total ")]
            return int(float(line.split()[1]))

        yield Server(addresses["mqtts"], (server,), handled)


@contextmanager
def at_once(made: Fleet) -> Iterator[Server]:
    """Ours with a store that confirms before it writes."""
    with fleetgate(made, "benchmarks.at_once") as server:
        yield server


@contextmanager
def stock_amqtt(made: Fleet) -> Iterator[Server]:
    """Stock amqtt, as it comes. A message is handled when a plugin was told of it."""
    with process([sys.executable, "-m", "benchmarks.stock_broker", str(made.state.path)]) as (server, ready):
        yield Server(ready.split("mqtts=")[1].strip(), (server,), lambda: _ask(server))


@contextmanager
def mosquitto(made: Fleet, *, stored: bool = False) -> Iterator[Server]:
    """Mosquitto with the same certificates; `stored`: with a paho subscriber that writes to SQLite, else alone."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=".", prefix=".bench-"))).resolve()
        secure, plain = _free_port(), _free_port()
        pki = made.state.path / "pki"
        config = folder / "mosquitto.conf"
        config.write_text(
            f"user root\nlog_dest none\nmax_queued_messages 0\nallow_anonymous true\nset_tcp_nodelay true\n"
            f"listener {plain} 127.0.0.1\nlistener {secure} 127.0.0.1\nrequire_certificate true\n"
            f"cafile {pki / 'ca.pem'}\ncertfile {pki / 'server.pem'}\nkeyfile {pki / 'server-key.pem'}\n"
        )
        broker = stack.enter_context(started([program, "-c", str(config)]))
        _listening(secure)
        if not stored:
            yield Server(f"127.0.0.1:{secure}", (broker,))
            return
        command = [sys.executable, "-m", "benchmarks.paho_to_sqlite", str(plain), str(folder / "store.db")]
        subscriber, _ = stack.enter_context(process(command))
        yield Server(f"127.0.0.1:{secure}", (broker, subscriber), lambda: _ask(subscriber))


class Clients:
    """A generator process with `count` clients, the first of them number `first`. A context manager: connects them."""

    def __init__(self, server: Server, made: Fleet, count: int, first: int = 1) -> None:
        arguments = [server.address, str(made.clients), str(first), str(count)]
        self._stack = ExitStack()
        self._process = self._stack.enter_context(started([sys.executable, "-m", "benchmarks.generator", *arguments]))

    def __enter__(self) -> Self:
        self.do("connect")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.close()
        self._stack.close()

    def tell(self, do: str, **arguments: Any) -> None:
        """Give a command; `answer` has its result."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the result of the last command."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the generator failed")
        result: dict[str, Any] = json.loads(line)
        return result

    def do(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give a command, and wait for its result."""
        self.tell(do, **arguments)
        return self.answer()


@contextmanager
def process(command: list[str]) -> Iterator[tuple[Process, str]]:
    """A process and its first line; ended with the block."""
    with started(command) as running:
        assert running.stdout is not None
        yield running, running.stdout.readline()


@contextmanager
def started(command: list[str]) -> Iterator[Process]:
    """A process; ended with the block."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.wait(60)


def _ask(asked: Process) -> int:
    assert asked.stdout is not None
    asked.send_signal(signal.SIGUSR1)
    return int(asked.stdout.readline())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _listening(port: int) -> None:
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
