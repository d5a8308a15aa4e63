"""The real program in a process of its own, and real clients."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import aiomqtt

from tests.programs import need
from tests.waiting import wait_until

FLEETGATE = [sys.executable, "-W", "error", "-m", "fleetgate"]
ROOT = Path(__file__).parents[2]


class Commands:
    """Runs commands one after the other; see tests.system.commands."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.system.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        atexit.register(self._process.kill)

    def ask(self, request: dict[str, Any], seconds: float = 60) -> int:
        """Run one; its exit code. Raises TimeoutError."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            raise TimeoutError(f"{request['arguments']}: no end within {seconds} s")
        return int(self._process.stdout.readline())


@cache
def _commands() -> Commands:
    return Commands()


class Gate:
    """`fleetgate serve` (or another serving command) on ports of its own. A context manager."""

    def __init__(
        self, folder: Path, *, command: tuple[str, ...] = ("serve",), environment: dict[str, str] | None = None
    ):
        self.folder = folder
        self.state = folder / "state"
        self.out = folder / "out"
        self._command = command
        self.environment = environment or {}
        self.process: subprocess.Popen[str] | None = None
        self.addresses: dict[str, str] = {}

    def __enter__(self) -> "Gate":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def start(self) -> None:
        """Start and wait for the ready line."""
        binds = ["--http-bind", "127.0.0.1:0"]
        if self._command[0] == "serve":
            binds += ["--mqtt-bind", "127.0.0.1:0"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "stderr").open("a") as errors:
            self.process = subprocess.Popen(
                [*FLEETGATE, *self._command, "--state", str(self.state), *binds],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **self.environment},
                cwd=self.folder,
            )
        line = self.process.stdout.readline()
        assert line.startswith("ready "), (line, self.errors())
        self.addresses = dict(part.split("=", 1) for part in line.split()[1:])

    def stop(self, number: int = signal.SIGTERM, seconds: float = 10) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        self.process.stdout.close()
        return code

    def errors(self) -> str:
        """What it wrote on stderr."""
        return (self.folder / "stderr").read_text()

    @property
    def mqtt(self) -> tuple[str, int]:
        """Host and port of MQTT over TLS."""
        host, port = self.addresses["mqtts"].rsplit(":", 1)
        return host, int(port)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on this state folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = {name: self.folder / f".{name}" for name in ("stdout", "stderr")}
        end = arguments.index("--") if "--" in arguments else len(arguments)
        request = {
            "arguments": [*arguments[:end], "--state", str(self.state), *arguments[end:]],
            "cwd": str(self.folder),
            "environment": {**os.environ, **self.environment},
            **{name: str(file) for name, file in files.items()},
        }
        code = _commands().ask(request)
        done = subprocess.CompletedProcess(arguments, code, files["stdout"].read_text(), files["stderr"].read_text())
        assert not check or done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        """Run a command and read the JSON it prints."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def add(self, name: str) -> str:
        """Add a device; the three lines that publish as it."""
        return self.run("device", "add", name, "--out", str(self.out)).stdout

    def get(self, path: str, *, token: bool = True) -> str:
        """GET over HTTP."""
        headers = {"Authorization": f"Bearer {(self.state / 'admin.token').read_text().strip()}"} if token else {}
        request = urllib.request.Request(f"http://{self.addresses['http']}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    @contextmanager
    def listening(self, name: str, topic_filter: str) -> Iterator[None]:
        """A mosquitto_sub of this client, connected for the time of the block."""
        command = self.mosquitto(name, "-t", topic_filter, program="mosquitto_sub")
        client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: f'"{name}"' in self.get("/api/v1/connections"), what=f"{name} connected")
            yield
        finally:
            client.kill()
            client.wait()

    def metrics(self) -> dict[str, float]:
        """Samples of one scrape."""
        found = {}
        for line in self.get("/metrics", token=False).splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def total(self, name: str, **labels: str) -> float:
        """Sum of a family's samples that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            value
            for sample, value in self.metrics().items()
            if sample.partition("{")[0] == name and all(text in sample for text in wanted)
        )

    def wait_for(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has come to a value."""
        wait_until(lambda: self.total(name, **labels) >= value, what=f"{name} {labels} >= {value}")
        assert self.total(name, **labels) == value

    def log(self) -> list[dict[str, Any]]:
        """Lines of the ingest log."""
        return [json.loads(line) for line in (self.state / "logs" / "ingest.log").read_text().splitlines()]

    def logged(self, **fields: Any) -> list[dict[str, Any]]:
        """Lines of the ingest log with these fields."""
        return [line for line in self.log() if all(line.get(key) == value for key, value in fields.items())]

    def check_account(self) -> None:
        """received = stored + duplicate + quarantined + rejected + dropped + routed + in flight, in one scrape."""
        found = self.metrics()

        def total(kind: str) -> float:
            prefix = f"fleetgate_messages_{kind}"
            return sum(value for name, value in found.items() if name.partition("{")[0] in {prefix, f"{prefix}_total"})

        ends = ("stored", "duplicate", "quarantined", "rejected", "dropped", "routed", "in_flight")
        assert total("received") == sum(map(total, ends))

    def mosquitto(self, name: str, *arguments: str, program: str = "mosquitto_pub") -> list[str]:
        """Command line of a mosquitto client with a device's certificate."""
        need(program)
        host, port = self.mqtt
        files = [
            "--cafile",
            self.out / "ca.pem",
            "--cert",
            self.out / f"{name}.pem",
            "--key",
            self.out / f"{name}-key.pem",
        ]
        return [program, "-h", host, "-p", str(port), *map(str, files), "-i", name, *arguments]

    def client(self, name: str, **more: Any) -> aiomqtt.Client:
        """An aiomqtt client with a device's certificate."""
        files = aiomqtt.TLSParameters(
            str(self.out / "ca.pem"), str(self.out / f"{name}.pem"), str(self.out / f"{name}-key.pem")
        )
        return aiomqtt.Client(*self.mqtt, **{"identifier": name, "tls_params": files, **more})

    def publish(self, name: str, topic: str, payload: str | bytes, *more: str) -> subprocess.CompletedProcess[str]:
        """Publish one message with mosquitto_pub, QoS 1."""
        message = payload.encode() if isinstance(payload, str) else payload
        return subprocess.run(
            self.mosquitto(name, "-q", "1", "-t", topic, "-s", *more),
            input=message,
            capture_output=True,
            timeout=20,
            check=False,
        )
