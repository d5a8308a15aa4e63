"""State folders whose names mean something to URLs, patterns and shells."""

from pathlib import Path

import pytest

from fleet.registry.moving import mark_moved, moved_to, read_file
from fleet.registry.schema import migrate
from tests.system.gate import Gate

NAME = "a%20b?c#d é \"q' [x]*{y}&=+%s"


def test_a_state_folder_of_any_name(tmp_path, need):
    """What is stored, sealed, asked, backed up and restored is in it, and nowhere else."""
    need("mosquitto_pub")
    folder = tmp_path / NAME
    with Gate(folder) as gate:
        gate.add("p1")
        assert gate.publish("p1", "devices/p1/telemetry", '{"v": 1}').returncode == 0
        assert "1 messages sealed" in gate.run("store", "seal").stderr
        assert gate.publish("p1", "devices/p1/telemetry", '{"v": 2}').returncode == 0
        assert [row["fields"]["v"] for row in gate.json("query", "p1")] == [1, 2]
        assert gate.json("sql", "SELECT count(*) AS n FROM readings") == [{"n": 2}]
        doctor = gate.run("doctor", check=False).stdout
        assert "is missing" not in doctor
        backup = folder / "b%41.fleetgate"
        gate.run("backup", str(backup))
        assert gate.stop() == 0
    other = Gate(folder / "restored?mode=ro")
    other.run("restore", str(backup))
    assert [row["fields"]["v"] for row in other.json("query", "p1")] == [1, 2]
    assert [device["name"] for device in other.json("device", "list")] == ["p1"]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("name", [NAME, "file:x?mode=memory", ":memory:", "%2e", "a;b"])
def test_a_registry_of_any_path(tmp_path, name: str):
    """Made, read, and marked as moved, where it is said to be."""
    path = tmp_path / name / "fleet.db"
    path.parent.mkdir()
    migrate(path)
    assert path.is_file()
    assert read_file(path) is not None
    assert moved_to(path) is None
    mark_moved(path, "postgresql://x")
    assert (read_file(path), moved_to(path)) == (None, "postgresql://x")
    assert [found.name for found in Path(tmp_path).iterdir()] == [name]


def test_damaged_files_in_a_state_folder(tmp_path):
    """A command goes on without them, or names the file in one line."""
    gate = Gate(tmp_path)
    gate.run("init")
    token = gate.state / "admin.token"
    good = token.read_bytes()
    for name, data, code in (
        ("admin.token", b"\xff", 1),
        ("admin.token", b"", 1),
        ("restored.json", b"[1", 0),
        ("server.json", b'{"pid": 1, "http": "[::", "mqtts": "[::"}', 0),
        ("pki/crl-number", b"\xff", 0),
        ("pki/server-key.pem", b"-----BEGIN", 0),
    ):
        (gate.state / name).write_bytes(data)
        done = gate.run("device", "list", check=False)
        assert done.returncode == code, done.stderr
        assert not code or (name in done.stderr and done.stderr.count("\n") == 1)
        token.write_bytes(good)
    gate.state = Path("~nobody-such/x")
    assert gate.run("device", "list", check=False).stderr.startswith("fleetgate: state folder ~nobody-such/x: ")


def test_where_a_key_can_not_be_written_nothing_is_registered(tmp_path):
    """A disk without room, a folder in its place: one line names it, and the name is free afterwards."""
    gate = Gate(tmp_path)
    gate.run("init")
    gate.out.mkdir()
    for name, blocked in (("p1", gate.out / "p1-key.pem"), ("p2", gate.out / "ca.pem"), ("p3", gate.out / ".p3.new")):
        blocked.mkdir()
        refused = gate.run("device", "add", name, "--out", str(gate.out), check=False)
        assert refused.returncode == 1
        assert str(blocked) in refused.stderr
        assert refused.stderr.count("\n") == 1
        blocked.rmdir()
    assert gate.json("device", "list") == []
    gate.add("p1")
    assert {path.name for path in gate.out.iterdir()} == {"ca.pem", "p1.pem", "p1-key.pem"}
