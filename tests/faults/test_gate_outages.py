"""What the machine does to a running gate: no disk, no lock, no files, no memory, no time. Devices keep sending."""

import asyncio
import contextlib
import resource
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.authority import Authority
from tests.faults.clock import WallClock
from tests.faults.ledger import filler
from tests.faults.sender import Sender, check, connect, provision, sending, tls
from tests.system.gate import Gate
from tests.waiting import until, wait_until

pytestmark = pytest.mark.system

NAMES = ("d1", "d2", "d3")


async def prepare(folder: Path, environment: dict[str, str] | None = None) -> Gate:
    """A gate with three devices, not started."""
    gate = Gate(folder, environment=environment)
    await provision(gate, NAMES)
    return gate


def is_ready(gate: Gate) -> bool:
    try:
        gate.get("/readyz", token=False)
    except urllib.error.HTTPError as error:
        assert error.code == 503
        return False
    return True


async def pinged(gate: Gate, name: str, seconds: float = 5) -> None:
    """A client is let in and its PINGREQ is answered, whatever the store does."""
    host, port = gate.mqtt
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(host, port, ssl=tls(gate, name), server_hostname="localhost")
        try:
            writer.write(connect(name) + b"\xc0\x00")
            assert await reader.readexactly(6) == b"\x20\x02\x00\x00\xd0\x00"
        finally:
            writer.transport.abort()


async def through(gate: Gate, begin, end, hold: float, *, senders: list[Sender] | None = None) -> list[Sender]:
    """Devices send through an outage of the store: nothing is acknowledged in it, everything after it."""
    senders = senders or [Sender(gate, name, keep_alive=2) for name in NAMES[:2]]
    async with sending(senders):
        await until(lambda: all(len(sender.acknowledged) > 100 for sender in senders))
        await asyncio.to_thread(begin)
        await asyncio.to_thread(wait_until, lambda: gate.total("fleetgate_store_available") == 0, 20)
        acknowledged = [len(sender.acknowledged) for sender in senders]
        assert not await asyncio.to_thread(is_ready, gate)
        await pinged(gate, NAMES[2])
        await asyncio.sleep(hold)  # longer than 1.5 times the keep-alive: being held back is not being silent
        assert [len(sender.acknowledged) for sender in senders] == acknowledged
        await asyncio.to_thread(end)
        await asyncio.to_thread(wait_until, lambda: gate.total("fleetgate_store_available") == 1, 20)
        assert await asyncio.to_thread(is_ready, gate)
    assert [sender.connects for sender in senders] == [1] * len(senders), "a device was disconnected"
    await settled(gate, senders)
    return senders


async def settled(gate: Gate, senders: list[Sender]) -> None:
    """Stop, and look: all that was sent is stored, once, in order; the account was exact."""
    await asyncio.to_thread(gate.check_account)
    assert await asyncio.to_thread(gate.stop) == 0
    assert await check(gate.state, senders) == sum(sender.sent for sender in senders)
    assert "Traceback" not in gate.errors(), gate.errors()


@pytest.mark.timeout(300)
async def test_disk_full(small_disk, long):
    """Case 4: telemetry, sessions and logs are on the full disk; the broker stays up, and resumes alone."""
    gate = await prepare(small_disk)
    with gate:
        await through(gate, lambda: filler(small_disk), (small_disk / "filler").unlink, 120 if long else 4)


@pytest.mark.timeout(300)
async def test_locked_by_another_process(tmp_path, long):
    """Case 5: sockets are not read, keep-alives count as kept, no loss, no word of it to the devices."""
    gate = await prepare(tmp_path)
    with gate:
        other = sqlite3.connect(
            gate.state / "telemetry/journal.db", isolation_level=None, timeout=5, check_same_thread=False
        )
        await through(
            gate, lambda: other.execute("BEGIN IMMEDIATE"), lambda: other.execute("ROLLBACK"), 60 if long else 4
        )
        other.close()


@contextlib.contextmanager
def injected(gate: Gate, calls: str, error: str) -> Iterator[None]:
    """System calls on the journal fail in the running gate, for the time of the block."""
    assert gate.process is not None
    journal = str(gate.state / "telemetry/journal.db")
    with subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(gate.process.pid), "-P", journal, "-P", f"{journal}-wal",
         "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"],
    ) as tracer:  # fmt: skip
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("calls", "error"), [("pwrite64", "EROFS"), ("fdatasync,fsync", "EIO")])
async def test_writes_that_fail(need, tmp_path, calls: str, error: str, long):
    """Cases 3 and 13: a file system that turned read-only, a permission that is gone, a disk that is broken."""
    need("strace")
    gate = await prepare(tmp_path)
    with gate, contextlib.ExitStack() as fault:
        await through(gate, lambda: fault.enter_context(injected(gate, calls, error)), fault.close, 30 if long else 3)


@pytest.mark.timeout(120)
async def test_a_file_size_limit(need, tmp_path):
    """Case 14, RLIMIT_FSIZE: as a full disk."""
    need("prlimit")
    gate = await prepare(tmp_path)
    with gate:
        size = (gate.state / "telemetry/journal.db-wal").stat().st_size
        await through(
            gate, lambda: _limit(gate, "fsize", max(65_536, size)), lambda: _limit(gate, "fsize", "unlimited"), 3
        )


@pytest.mark.timeout(120)
async def test_no_file_descriptors(need, tmp_path):
    """Case 14, RLIMIT_NOFILE: whoever is there goes on; who comes waits, and gets in once there is room."""
    need("prlimit")
    gate = await prepare(tmp_path)
    with gate:
        senders = [Sender(gate, name) for name in NAMES[:2]]
        async with sending(senders):
            await until(lambda: all(len(sender.acknowledged) > 100 for sender in senders))
            assert gate.process is not None
            _limit(gate, "nofile", len(list(Path(f"/proc/{gate.process.pid}/fd").iterdir())))
            late = Sender(gate, NAMES[2])
            async with sending([late]):
                await until(lambda: "not accepting" in gate.errors())
                before = [len(sender.acknowledged) for sender in senders]
                await until(
                    lambda: all(
                        len(sender.acknowledged) > count + 100 for sender, count in zip(senders, before, strict=True)
                    )
                )
                assert not late.acknowledged
                _limit(gate, "nofile", 1024)
                await until(lambda: len(late.acknowledged) > 100)
        await settled(gate, [*senders, late])


@pytest.mark.timeout(120)
async def test_no_memory(need, tmp_path):
    """Case 14, RLIMIT_AS: whoever is there goes on; who comes waits, and gets in once there is room."""
    need("prlimit")
    gate = await prepare(tmp_path, {"FLEETGATE__MQTT__FLAPPING_CONNECTS": "0"})
    with gate:
        senders = [Sender(gate, name) for name in NAMES[:2]]
        async with sending(senders):
            await until(lambda: all(len(sender.acknowledged) > 100 for sender in senders))
            assert gate.process is not None
            pages = int(Path(f"/proc/{gate.process.pid}/statm").read_text().split()[0])
            _limit(gate, "as", pages * resource.getpagesize() + 4_000_000)
            crowd = [asyncio.create_task(pinged(gate, NAMES[2], 60)) for _ in range(50)]
            await until(lambda: "not accepting" in gate.errors())
            before = [len(sender.acknowledged) for sender in senders]
            await until(
                lambda: all(
                    len(sender.acknowledged) > count + 1000 for sender, count in zip(senders, before, strict=True)
                )
            )
            assert not any(task.done() for task in crowd)
            _limit(gate, "as", "unlimited")
            await asyncio.wait(crowd)
            assert any(task.exception() is None for task in crowd)  # one id: they take it over from each other
        assert [sender.connects for sender in senders] == [1, 1]
        await settled(gate, senders)


def _limit(gate: Gate, what: str, value: int | str) -> None:
    assert gate.process is not None
    subprocess.run(["prlimit", "--pid", str(gate.process.pid), f"--{what}={value}:"], check=True)


@pytest.mark.timeout(120)
async def test_stopped_and_continued(tmp_path, long):
    """Case 15: nobody's time ran out meanwhile; nothing is lost."""
    gate = await prepare(tmp_path)
    with gate:
        senders = [Sender(gate, name, keep_alive=1) for name in NAMES]
        async with sending(senders):
            await until(lambda: all(len(sender.acknowledged) > 100 for sender in senders))
            assert gate.process is not None
            gate.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(30 if long else 3)  # the fault itself
            gate.process.send_signal(signal.SIGCONT)
            before = [len(sender.acknowledged) for sender in senders]
            await until(
                lambda: all(len(sender.acknowledged) > count for sender, count in zip(senders, before, strict=True))
            )
        assert [sender.connects for sender in senders] == [1] * 3
        await settled(gate, senders)


BLOCKING = """
import time
from amqtt.plugins.base import BasePlugin

class Blocking(BasePlugin):
    async def on_broker_client_connected(self, *, client_id, **kwargs):
        if client_id == "d3":
            time.sleep({seconds})
"""


@pytest.mark.timeout(120)
async def test_a_plugin_that_blocks_the_loop(tmp_path):
    """Case 16: the watchdog names it; keep-alives are not counted against anybody."""
    seconds = 4
    gate = await prepare(tmp_path)
    (gate.folder / "blocking_plugin.py").write_text(BLOCKING.format(seconds=seconds))
    (gate.folder / "fleetgate.toml").write_text('[mqtt.plugins."blocking_plugin.Blocking"]\n')
    gate = Gate(
        tmp_path,
        command=("serve", "--config", str(gate.folder / "fleetgate.toml")),
        environment={"PYTHONPATH": str(gate.folder)},
    )
    with gate:
        senders = [Sender(gate, name, keep_alive=1) for name in NAMES[:2]]
        async with sending(senders):
            await until(lambda: all(len(sender.acknowledged) > 100 for sender in senders))
            await pinged(gate, "d3", seconds + 5)
            await until(lambda: gate.logged(event="the loop goes on"))
            (held,) = gate.logged(event="the loop is held up")
            assert "blocking_plugin.py" in held["at"][0]
            assert "on_broker_client_connected" in held["at"][0]
        assert [sender.connects for sender in senders] == [1] * 2
        assert seconds - 1 < gate.total("fleetgate_loop_blocked_seconds_total") < seconds + 2
        await settled(gate, senders)


@pytest.mark.timeout(180)
async def test_the_wall_clock_is_set(need, tmp_path):
    """Case 17: an hour back, ten years ahead, and right again. Nobody is disconnected, and nothing expires but what
    goes by the calendar: certificates.
    """
    gate = await prepare(tmp_path)
    clock = WallClock(tmp_path, need)
    gate = Gate(tmp_path, environment=clock.environment)
    with gate:
        senders = [Sender(gate, name, keep_alive=1, window=10, pause=0.005) for name in NAMES[:2]]
        async with sending(senders):
            await until(lambda: all(len(sender.acknowledged) > 50 for sender in senders))
            for steps, seconds in enumerate((-3600, 10 * 365 * 86_400, 0), 1):
                before = [len(sender.acknowledged) for sender in senders]
                clock.set(seconds)
                await asyncio.to_thread(gate.wait_for, "fleetgate_clock_steps_total", steps)
                await until(
                    lambda before=before: all(
                        len(sender.acknowledged) > count + 50 for sender, count in zip(senders, before, strict=True)
                    )
                )
                if seconds > 0:
                    with pytest.raises((EOFError, OSError)):
                        await pinged(gate, NAMES[2])
            await pinged(gate, NAMES[2])
        assert [sender.connects for sender in senders] == [1] * 2
        assert len(gate.logged(event="the wall clock was set")) == 3
        found = gate.metrics()
        assert all(value >= 0 for name, value in found.items()), {k: v for k, v in found.items() if v < 0}
        await asyncio.to_thread(gate.check_account)
        assert await asyncio.to_thread(gate.stop) == 0
    stored = sqlite3.connect(gate.state / "telemetry/journal.db")
    times = [moment for (moment,) in stored.execute("SELECT received_last FROM journal ORDER BY id")]
    stored.close()
    now = time.time()
    for around in (now - 3600, now, now + 10 * 365 * 86_400):
        assert any(abs(moment / 1e6 - around) < 120 for moment in times), around


MEMORY_BYTES = 256_000_000


@pytest.mark.timeout(300)
async def test_a_flood_that_can_not_be_written(tmp_path, long):
    """Case 20: QoS 0 is dropped and counted, then sockets are not read; memory stays below 256 MB throughout."""
    gate = await prepare(tmp_path)
    with gate:
        other = sqlite3.connect(gate.state / "telemetry/journal.db", isolation_level=None, timeout=5)
        other.execute("BEGIN IMMEDIATE")
        senders = [Sender(gate, name, window=60_000) for name in NAMES[:2]]
        host, port = gate.mqtt
        _, flood = await asyncio.open_connection(host, port, ssl=tls(gate, NAMES[2]), server_hostname="localhost")
        flood.write(connect(NAMES[2]))
        body = b"\x00\x14devices/d3/telemetry" + b'{"x": "%s"}' % (b"z" * 900)
        packet = b"\x30" + bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) + body

        async def pour(seconds: float, enough) -> None:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not await asyncio.to_thread(enough):
                flood.write(packet * 500)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await flood.drain()

        def dropped() -> bool:
            return gate.total("fleetgate_messages_dropped_total", reason="intake_full") > 0

        await pour(60, dropped)
        assert dropped()
        async with sending(senders):
            await pour(60 if long else 4, lambda: False)
            flood.transport.abort()
            other.execute("ROLLBACK")
            other.close()
        assert gate.process is not None
        status = Path(f"/proc/{gate.process.pid}/status").read_text()
        (peak,) = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
        assert peak < MEMORY_BYTES, peak
        await asyncio.to_thread(wait_until, lambda: gate.total("fleetgate_messages_in_flight") == 0)
        await settled(gate, senders)


async def test_certificates_swapped_under_load(tmp_path):
    """Case 44: the server's certificate is replaced; nobody is disconnected, new connections get the new one."""
    gate = await prepare(tmp_path)
    with gate:
        senders = [Sender(gate, name) for name in NAMES[:2]]
        async with sending(senders):
            for _ in range(3):
                before = [len(sender.acknowledged) for sender in senders]
                old = await asyncio.to_thread(_server_certificate, gate)
                for name in ("server.pem", "server-key.pem"):
                    (gate.state / "pki" / name).unlink()
                authority = Authority(gate.state / "pki", "fleetgate.local", 365)
                await asyncio.to_thread(authority.ensure_server, ["localhost"])
                assert gate.process is not None
                gate.process.send_signal(signal.SIGHUP)
                await asyncio.to_thread(
                    wait_until, lambda old=old: _server_certificate(gate) != old, 20, "a new certificate"
                )
                await until(
                    lambda before=before: all(
                        len(sender.acknowledged) > count + 100 for sender, count in zip(senders, before, strict=True)
                    )
                )
        assert [sender.connects for sender in senders] == [1, 1]
        await settled(gate, senders)


def _server_certificate(gate: Gate) -> bytes | None:
    with (
        socket.create_connection(gate.mqtt, timeout=10) as raw,
        tls(gate, NAMES[2]).wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        return secure.getpeercert(True)
