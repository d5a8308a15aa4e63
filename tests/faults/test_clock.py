"""The wall clock is wrong at the start, or set while the program runs: what ends is made again, and nothing is lost."""

import asyncio
import os
import sqlite3
import subprocess
import time
import urllib.error
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fleet.authority.keys import write_key
from fleet.authority.making import authority_certificate, client_or_server, general_name, subject_of
from tests.faults.clock import WallClock
from tests.faults.sender import Sender, provision, sending
from tests.fleet.pki import pem
from tests.system.gate import FLEETGATE, Gate
from tests.waiting import until, wait_until

pytestmark = pytest.mark.system

DAY = 86_400
IN_1970 = 20 - int(time.time())


class Waiting(Gate):
    """A gate whose start is not waited for: `line` is what it said on stdout."""

    def begin(self) -> None:
        """Start it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        binds = ["--http-bind", "127.0.0.1:0", "--mqtt-bind", "127.0.0.1:0"]
        with (self.folder / "stderr").open("a") as errors, (self.folder / "stdout").open("w") as out:
            self.process = subprocess.Popen(
                [*FLEETGATE, "serve", "--state", str(self.state), *binds],
                stdout=out,
                stderr=errors,
                text=True,
                env={**os.environ, **self.environment},
                cwd=self.folder,
            )

    def ready(self) -> str:
        """The ready line; empty: there is none yet."""
        found = (self.folder / "stdout").read_text()
        if found.endswith("\n"):
            self.addresses = dict(part.split("=", 1) for part in found.split()[1:])
        return found

    def stop(self, number: int = 15, seconds: float = 10) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


def plain(gate: Gate, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that sees the gate's wall clock."""
    return subprocess.run(
        [*FLEETGATE, *arguments, "--state", str(gate.state)],
        env={**os.environ, **gate.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.timeout(120)
def test_a_first_start_in_1970(tmp_path, need):
    """No certificate is made by a clock that is not believed: commands fail with one line, `serve` waits, says why and
    goes on by itself within ten seconds. Where it is set too far ahead first, what was made then is good afterwards.
    """
    clock = WallClock(tmp_path, need, IN_1970)
    gate = Waiting(tmp_path, environment=clock.environment)
    for command in (("init",), ("device", "add", "d1", "--out", str(gate.out))):
        failed = plain(gate, *command)
        assert failed.returncode == 1
        assert failed.stderr.startswith("fleetgate: the clock shows 1970-01-01T00:0"), failed.stderr
        assert failed.stderr.count("\n") == 1
    gate.begin()
    wait_until(lambda: "waiting for the clock to be set" in gate.errors(), 20)
    assert gate.errors().count("\n") == 1
    assert gate.ready() == ""
    assert not list(gate.state.glob("pki/*"))
    clock.set(73 * 365 * DAY)
    wait_until(gate.ready, 10)
    gate.add("d1")
    clock.set(0)
    wait_until(lambda: gate.publish("d1", "devices/d1/telemetry", '{"a": 1}').returncode == 0, 10)
    assert gate.stop() == 0
    clock.set(IN_1970)
    failed = plain(gate, "device", "add", "d2", "--out", str(gate.out))
    assert failed.returncode == 1
    assert failed.stderr.startswith("fleetgate: the clock shows 1970-01-01T00:0"), failed.stderr
    assert "d1" in plain(gate, "device", "list").stdout
    gate.begin()
    wait_until(lambda: gate.errors().count("waiting for the clock to be set") == 2, 20)
    assert gate.ready() == ""
    assert gate.stop() == 0  # also while it waits


def old_authority(folder: Path, domain: str = "fleetgate.local") -> None:
    """What a start in 1970 made before: root, issuing authority and server's certificate, ended long ago."""
    folder.mkdir(parents=True, mode=0o700)
    begin = datetime(1970, 1, 1, 0, 6, tzinfo=UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    subject, below = subject_of(f"fleetgate CA {domain}"), subject_of(f"fleetgate issuing CA {domain}")
    root_end, end = begin + timedelta(days=7300), begin + timedelta(days=3650)
    root = authority_certificate(subject, keys[0].public_key(), subject, keys[0], root_end, path_length=1, begin=begin)
    issuing = authority_certificate(below, keys[1].public_key(), subject, keys[0], end, path_length=0, begin=begin)
    server = client_or_server(
        "localhost",
        keys[2].public_key(),
        (keys[1], issuing),
        (begin, begin + timedelta(days=397)),
        x509.ExtendedKeyUsageOID.SERVER_AUTH,
        [general_name("localhost")],
    )
    for name, key, made in (("ca", keys[0], [root]), ("issuing", keys[1], [issuing]), ("server", keys[2], [server])):
        write_key(folder / f"{name}-key.pem", key, None)
        chain = [*made, issuing] if name == "server" else made
        (folder / f"{name}.pem").write_bytes(b"".join(map(pem, chain)))


@pytest.mark.timeout(120)
def test_certificates_of_1970_are_made_again(tmp_path):
    """A state folder whose certificates were all made in 1970 serves: with the same keys, so that what they signed and
    who trusts them is not lost.
    """
    gate = Gate(tmp_path)
    old_authority(gate.state / "pki")
    before = x509.load_pem_x509_certificate((gate.state / "pki/ca.pem").read_bytes())
    with gate:
        gate.add("d1")
        assert gate.publish("d1", "devices/d1/telemetry", '{"a": 1}').returncode == 0
        after = x509.load_pem_x509_certificate((gate.out / "ca.pem").read_bytes())
        assert (after.subject, after.public_key()) == (before.subject, before.public_key())
        assert after.not_valid_after_utc > datetime.now(UTC) + timedelta(days=7000)


WSS = "FLEETGATE__MQTT__WSS_BIND"
HTTPS = "FLEETGATE__HTTP__HTTPS_BIND"


@pytest.mark.timeout(180)
async def test_certificates_are_renewed_while_it_runs(tmp_path, need):
    """A year and a month later (the server's certificate has ended), twenty-five years later (the issuing authority and
    the root have), and back: each listener shows one that is valid within ten seconds of the step, nobody is
    disconnected, and certificates issued before are valid when the clock is right.
    """
    need("openssl")
    clock = WallClock(tmp_path, need)
    gate = Gate(tmp_path)
    await provision(gate, ["d1", "d2"])
    ca = x509.load_pem_x509_certificate((gate.out / "ca.pem").read_bytes())
    gate = Gate(tmp_path, environment={**clock.environment, WSS: "127.0.0.1:0", HTTPS: "127.0.0.1:0"})
    with gate:
        sender = Sender(gate, "d1", window=10, pause=0.005)
        async with sending([sender]):
            await until(lambda: len(sender.acknowledged) > 50)
            for years in (1.1, 25, 0):
                before = len(sender.acknowledged)
                ahead = int(years * 365 * DAY)
                clock.set(ahead)
                now = datetime.now(UTC) + timedelta(seconds=ahead)

                def ends(now: datetime = now) -> bool:
                    end = gate.total("fleetgate_certificate_expires_timestamp_seconds", certificate="server")
                    return now.timestamp() < end < (now + timedelta(days=398)).timestamp()

                await asyncio.to_thread(wait_until, ends, 10)
                for scheme in ("mqtts", "wss", "https"):
                    found = await asyncio.to_thread(served, gate, scheme)
                    assert all(one.not_valid_before_utc < now < one.not_valid_after_utc for one in found), scheme
                await until(lambda before=before: len(sender.acknowledged) > before + 50)
            sent = await asyncio.to_thread(gate.publish, "d2", "devices/d2/telemetry", '{"a": 1}')
            assert sent.returncode == 0, sent.stderr
        assert sender.connects == 1
        root = x509.load_pem_x509_certificate((gate.state / "pki/ca.pem").read_bytes())
        assert (root.subject, root.public_key()) == (ca.subject, ca.public_key())
        await asyncio.to_thread(gate.check_account)
        assert await asyncio.to_thread(gate.stop) == 0


def served(gate: Gate, scheme: str) -> list[x509.Certificate]:
    """The chain that a listener shows."""
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", gate.addresses[scheme], "-showcerts"],
        input=b"",
        capture_output=True,
        timeout=20,
        check=False,
    ).stdout
    return x509.load_pem_x509_certificates(shown)


RETENTION = {"FLEETGATE__STORE__KEEP_DAYS": "1", "FLEETGATE__HISTORY__SEAL": "false"}


@pytest.mark.timeout(180)
async def test_nothing_expires_by_a_clock_that_is_wrong(tmp_path, need):
    """Ten years ahead over a restart, 1970 while it runs, and right again: what was acknowledged is there and was
    received when it was; a session and what waits in it, and a retained message, are there; `readyz` says why not.
    """
    need("mosquitto_pub")
    clock = WallClock(tmp_path, need)
    gate = Gate(tmp_path)
    await provision(gate, ["d1", "d2"])
    gate = Gate(tmp_path, environment={**clock.environment, **RETENTION})
    begun = time.time_ns() // 1000
    with gate:
        async with gate.client("d2", clean_session=False) as client:
            await client.subscribe("devices/d2/commands/#", 1)
        sent = await asyncio.to_thread(gate.publish, "d1", "devices/d1/telemetry", '{"n": 0}')
        assert sent.returncode == 0, sent.stderr
        for topic, more in (("devices/d2/commands/go", ()), ("devices/d2/state", ("--retain",))):
            await asyncio.to_thread(gate.run, "publish", topic, "waits", "--qos", "1", *more)
        sender = Sender(gate, "d1", window=10, pause=0.005)
        async with sending([sender]):
            await until(lambda: len(sender.acknowledged) > 50)
            clock.set(IN_1970)
            await until(lambda: not is_ready(gate))
            count = len(sender.acknowledged)
            await until(lambda: len(sender.acknowledged) > count + 50)
            clock.set(0)
            await until(lambda: is_ready(gate))
        assert sender.connects == 1
        assert await asyncio.to_thread(gate.stop) == 0
    before = stored(gate)
    clock.set(10 * 365 * DAY)
    with gate:
        assert gate.total("fleetgate_clock_unconfirmed_seconds") > 3650 * DAY - 3600
        assert gate.json("query", "d1", "--from", "2026-01-01")
        assert await asyncio.to_thread(gate.stop) == 0
    clock.set(0)
    with gate:
        assert gate.total("fleetgate_clock_unconfirmed_seconds") == 0
        async with gate.client("d2", clean_session=False) as client:
            await client.subscribe("devices/d2/state", 1)
            got = set()
            async with asyncio.timeout(10):
                async for message in client.messages:
                    got.add(str(message.topic))
                    if len(got) == 2:
                        break
        assert await asyncio.to_thread(gate.stop) == 0
    after = stored(gate)
    assert after == before
    assert all(begun <= received <= time.time_ns() // 1000 for _, received in after)


def stored(gate: Gate) -> list[tuple[int, int]]:
    """Rows of the journal, and when what is in each was received."""
    journal = sqlite3.connect(gate.state / "telemetry/journal.db")
    rows = journal.execute("SELECT id, received_last FROM journal ORDER BY id").fetchall()
    journal.close()
    return rows


def is_ready(gate: Gate) -> bool:
    try:
        gate.get("/readyz", token=False)
    except urllib.error.HTTPError as error:
        assert b"the clock shows 1970-" in error.read()
        return False
    return True
