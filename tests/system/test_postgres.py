"""PostgreSQL as operators meet it: telemetry goes there by itself, a history is moved there, and everything says where
it is.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres import Postgres
from tests.system.gate import FLEETGATE, ROOT, Gate
from tests.waiting import wait_until

COUNT = "SELECT count(*) FROM fleetgate.messages"


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


def simulated(gate: Gate) -> int:
    """Messages of a small fleet; how many were stored since the start."""
    before = gate.total("fleetgate_messages_stored_total")
    subprocess.run(
        [*FLEETGATE, "simulate", "--state", str(gate.state), "--devices", "3", "--rate", "100", "--duration", "2"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return int(gate.total("fleetgate_messages_stored_total") - before)


def test_telemetry_goes_there(tmp_path: Path, postgres: Postgres, url: str):
    """Within a second of its acknowledgement, while queries see it at once; metrics and doctor say so."""
    with Gate(tmp_path, environment={"FLEETGATE__STORE__URL": url}) as gate:
        stored = simulated(gate)
        wait_until(lambda: postgres.ask(COUNT, url) == [(stored,)])
        assert gate.total("fleetgate_moved_messages_total") == stored
        assert gate.total("fleetgate_postgres_available") == 1
        assert gate.total("fleetgate_move_failures_total") == 0
        readme = (ROOT / "README.md").read_text()
        for name in ("moved_messages_total", "move_failures_total", "postgres_available", "postgres_behind_seconds"):
            assert f"fleetgate_{name}" in gate.metrics()
            assert name in readme
        devices = [device["name"] for device in gate.json("device", "list")]
        rows = {device: gate.json("query", device, "--from", "-1h") for device in devices}
        assert sum(map(len, rows.values())) == stored
        sums = "SELECT device, count(*), avg((fields ->> 'temperature')::float8) FROM fleetgate.telemetry" \
            " JOIN fleetgate.series ON series.id = series GROUP BY device"  # fmt: skip
        for device, count, mean in postgres.ask(sums, url):
            (bucket,) = gate.json("query", device, "--from", "-1h", "--field", "temperature", "--bucket", "1d")
            assert (bucket["count"], bucket["avg"]) == (count, pytest.approx(mean))
            assert count == len(rows[device])
        assert gate.json("store", "seal")["sealed"] == stored
        assert gate.json("sql", "SELECT count(*) AS n FROM messages") == [{"n": stored}]
        assert {device: gate.json("query", device, "--from", "-1h") for device in devices} == rows
        (sums,) = gate.json("query", "--devices", "name:*", "--field", "temperature", "--bucket", "1d")
        assert (sums["count"], sums["devices"]) == (stored, len(devices))
        found = {entry["check"]: entry for entry in gate.json("doctor")}
        assert found["telemetry in postgres"]["status"] == "ok", found
        gate.run("device", "delete", devices[0], "--purge")
        wait_until(lambda: postgres.ask(COUNT, url) == [(stored - len(rows[devices[0]]),)])
    assert gate.json("query", devices[1], "--from", "-1h") == rows[devices[1]]
    gate.environment |= {"FLEETGATE__HISTORY__SEAL": "false"}
    for arguments, said in (
        (("sql", "SELECT 1"), "ask there, fleetgate.messages"),
        (("store", "seal"), "history.seal = false: nothing is sealed"),
    ):
        refused = gate.run(*arguments, check=False)
        assert refused.returncode == 1
        assert said in refused.stderr
    assert "Traceback" not in gate.errors(), gate.errors()


def test_a_history_is_moved_there(tmp_path: Path, postgres: Postgres, url: str):
    """While the server runs, then the switch; nothing is missing or double, and moving once more changes nothing."""
    gate = Gate(tmp_path)
    with gate:
        stored = simulated(gate)
        moved = gate.json("store", "migrate", "--to", url)
        assert (moved["rows"], moved["before"], moved["damaged"]) == (stored, 0, [])
        more = simulated(gate)
        device = gate.json("device", "list")[0]["name"]
        rows = gate.json("query", device, "--from", "-1h")
    again = gate.json("store", "migrate", "--to", url)
    assert (again["rows"], again["before"]) == (more, moved["files"])
    assert postgres.ask(COUNT, url) == [(stored + more,)]
    gate.environment = {"FLEETGATE__STORE__URL": url}
    with gate:
        assert gate.json("query", device, "--from", "-1h") == rows
        last = simulated(gate)
        wait_until(lambda: postgres.ask(COUNT, url) == [(stored + more + last,)])
        assert gate.json("store", "migrate")["files"] == 0
    bad = gate.run("store", "migrate", "--to", "mysql://x", check=False)
    assert bad.returncode == 1
    assert "fleetgate: url: postgresql://user@host/database" in bad.stderr
    gate.environment = {"FLEETGATE__STORE__URL": "mysql://me:secret@x"}
    bad = gate.run("store", "show", check=False)
    assert (bad.returncode, bad.stderr) == (1, "fleetgate: url: postgresql://user@host/database\n")
    gate.environment = {}
    away = gate.run("store", "migrate", "--to", "postgresql://me:secret@127.0.0.1:1/x", check=False)
    assert away.returncode == 1
    assert "PostgreSQL 127.0.0.1/x" in away.stderr
    assert "secret" not in away.stderr


def test_a_backup_is_restored(tmp_path: Path, postgres: Postgres, url: str):
    """What came after it is in the database still; what comes then goes there too, and nothing twice."""
    gate = Gate(tmp_path / "gate", environment={"FLEETGATE__STORE__URL": url})
    with gate:
        stored = simulated(gate)
        gate.run("store", "seal")
        stored += simulated(gate)
        gate.run("backup", str(tmp_path / "backup"))
        stored += simulated(gate)
        gate.run("store", "seal")
        wait_until(lambda: postgres.ask(COUNT, url) == [(stored,)])
        device = gate.json("device", "list")[0]["name"]
        rows = gate.json("query", device, "--from", "-1h")
    shutil.rmtree(gate.state)
    gate.run("restore", str(tmp_path / "backup"))
    with gate:
        assert gate.json("query", device, "--from", "-1h") == rows
        stored += simulated(gate)
        wait_until(lambda: postgres.ask(COUNT, url) == [(stored,)])
        devices = [device["name"] for device in gate.json("device", "list")]
        assert sum(len(gate.json("query", name, "--from", "-1h")) for name in devices) == stored
    assert "Traceback" not in gate.errors(), gate.errors()


async def test_the_registry_goes_there(tmp_path: Path, postgres: Postgres, url: str):
    """With all that it has; devices connect while the database is away, and are revoked when it is back."""
    gate = Gate(tmp_path)
    with gate:
        gate.run("device", "add", "pump-1", "--out", str(gate.out))
        gate.run("device", "set", "pump-1", "--site", "hall-2", "--attribute", "fw=1.4.2")
        gate.run("group", "set", "pumps", "--query", 'site:"hall-2"')
        before = gate.json("device", "show", "pump-1")
    gate.environment = {"FLEETGATE__REGISTRY__URL": url}
    assert gate.json("device", "show", "pump-1") == before, "without a server too"
    with gate:
        assert gate.json("device", "list", "--query", "group:pumps AND connected:false") != []
        async with gate.client("pump-1") as client:
            await client.publish("devices/pump-1/telemetry", b'{"a": 1}', qos=1)
            wait_until(lambda: gate.json("device", "list", "--query", "group:pumps AND connected:true") != [])
        assert postgres.ask("SELECT site, state FROM fleet.members WHERE kind = 'device'", url) == [
            ("hall-2", "active")
        ]
        found = {entry["check"]: entry for entry in gate.json("doctor")}
        assert found["registry in postgres"]["status"] == "ok", found
        done = Gate(gate.state.parent).run("doctor", "--json", check=False)
        (told,) = [entry for entry in json.loads(done.stdout) if entry["check"] == "database registry"]
        assert (done.returncode, "was moved to" in told["detail"]) == (1, True), told
        second = Gate(tmp_path / "second", environment=gate.environment)
        refused = second.run("device", "list", check=False)
        assert (refused.returncode, "another fleetgate owns it" in refused.stderr) == (1, True), refused.stderr
        postgres.stop()
        try:
            refused = gate.run("device", "revoke", "pump-1", check=False)
            assert (refused.returncode, "the registry, PostgreSQL 127.0.0.1" in refused.stderr) == (1, True)
            async with gate.client("pump-1") as client:
                await client.publish("devices/pump-1/telemetry", b'{"a": 2}', qos=1)
        finally:
            postgres.start()
        gate.run("device", "revoke", "pump-1")
        assert [row["fields"] for row in gate.json("query", "pump-1", "--from", "-1h")] == [{"a": 1}, {"a": 2}]
    gate.environment = {}
    refused = gate.run("device", "list", check=False)
    assert (refused.returncode, "say in registry.url where that is" in refused.stderr) == (1, True), refused.stderr
    assert "Traceback" not in gate.errors(), gate.errors()


def test_without_the_extra(tmp_path: Path):
    """It says what is missing."""
    hide = "import importlib.util, sys; sys.modules['asyncpg'] = None; real = importlib.util.find_spec;" \
        " importlib.util.find_spec = lambda name, *more: None if name == 'asyncpg' else real(name, *more);" \
        " from fleetgate.cli import main; main()"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", hide, "--state", str(tmp_path), "store", "migrate", "--to", "postgresql://x/y"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "pip install fleetgate[postgres]" in done.stderr
    assert json.loads(
        subprocess.run(
            [sys.executable, "-c", hide, "--state", str(tmp_path), "store", "show", "--json"],
            capture_output=True, text=True, check=True, cwd=ROOT,
        ).stdout
    )["files"] == 0  # fmt: skip
