"""Backups: one file with everything, verified; and back from it."""

import asyncio
import json
import stat

import pytest
from backports.zstd import tarfile

from fleet.audit.model import Act, Via
from fleet.audit.service import Asked, Begun
from fleet.errors import StateError
from fleet.state import StateFolder
from fleetgate import archive
from fleetgate.archive import ArchiveError, manifest_of, pack, unpack, verified
from fleetgate.backup import back_up, restore
from fleetgate.core import open_core
from fleetgate.errors import ArgumentError
from fleetgate.http.backup import BackupTarget
from fleetgate.operations import Operation
from fleetgate.settings import Settings
from ingester.store import Selection
from tests.fleetgate.test_access import entries
from tests.fleetgate.test_fleet_api import add
from tests.fleetgate.test_http import client, core, store
from tests.fleetgate.test_repeated import finished

__all__ = ["client", "core"]

PASSPHRASE = b"correct horse"


def nothing(_done: int, _total: int) -> None:
    """Nobody looks."""


@pytest.fixture
def folder(tmp_path):
    """A state folder of a kind."""
    made = tmp_path / "folder"
    (made / "pki").mkdir(parents=True)
    (made / "telemetry" / "history").mkdir(parents=True)
    (made / "pki" / "ca-key.pem").write_text("SECRET KEY")
    (made / "pki" / "ca.pem").write_text("certificate")
    (made / "admin.token").write_text("SECRET TOKEN")
    (made / "telemetry" / "history" / "a.parquet").write_bytes(bytes(range(256)) * 10_000)
    (made / "empty").write_bytes(b"")
    return made


def contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_all_of_it_and_back(tmp_path, folder, passphrase):
    """Each file as it was; readable by the owner only; nothing is left beside it."""
    file, told = tmp_path / "x.backup", []
    size = pack(folder, file, manifest_of(folder, 7, "1"), passphrase, lambda *done: told.append(done))
    assert (size, stat.S_IMODE(file.stat().st_mode)) == (file.stat().st_size, 0o600)
    assert told[-1][0] == told[-1][1] > 0
    assert sorted(verified(file, passphrase)) == sorted(contents(folder))
    manifest = unpack(file, tmp_path / "back", passphrase, nothing)
    assert (manifest.at, manifest.secret) == (7, ("admin.token", "pki/ca-key.pem"))
    assert contents(tmp_path / "back") == contents(folder)
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "back").rglob("*") if path.is_file()} == {0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "folder", "x.backup"]


def members(file) -> dict[str, bytes]:
    with tarfile.open(file, "r:zst") as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}


def test_keys_are_encrypted(tmp_path, folder):
    """By the passphrase: without it nothing of them is there to be had, and a wrong one is said."""
    file = tmp_path / "x.backup"
    pack(folder, file, manifest_of(folder, 7, "1"), PASSPHRASE, nothing)
    found = members(file)
    assert not [name for name, data in found.items() if b"SECRET" in data]
    assert "files/pki/ca.pem" in found
    assert "files/pki/ca-key.pem" not in found
    with pytest.raises(ArchiveError, match="give --passphrase-file"):
        unpack(file, tmp_path / "back", None, nothing)
    with pytest.raises(ArchiveError, match="not its passphrase"):
        unpack(file, tmp_path / "back", b"wrong horse", nothing)


def rewritten(file, change) -> None:
    """The archive with other members."""
    found = list(members(file).items())
    change(found)
    with tarfile.open(file, "w:zst") as opened:
        for name, data in found:
            archive._add(opened, name, data)


def manifest_with(**changes):
    def change(found):
        said = {**json.loads(found[0][1]), **changes}
        found[0] = (archive._MANIFEST, json.dumps(said).encode())

    return change


def altered(found):
    found[-1] = (found[-1][0], found[-1][1][:-1] + b"x")


FILES = {"../evil": {"bytes": 1, "sha256": "0"}}
CASES = {
    "altered": (altered, "damaged"),
    "missing": (lambda found: found.pop(), "is missing"),
    "one too many": (lambda found: found.append(("files/more", b"")), "not in its manifest"),
    "twice": (lambda found: found.append(found[-1]), "not in its manifest"),
    "no manifest": (lambda found: found.pop(0), "no manifest"),
    "empty": (lambda found: found.clear(), "no manifest"),
    "newer": (manifest_with(version=2), "newer fleetgate"),
    "outside": (manifest_with(files=FILES), "no path of a state folder"),
    "absolute": (manifest_with(files={"/etc/passwd": FILES["../evil"]}), "no path of a state folder"),
    "garbled": (manifest_with(files=[]), "can't be read"),
    "no JSON": (lambda found: found.__setitem__(0, (archive._MANIFEST, b"{")), "can't be read"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named(tmp_path, folder, case: str):
    """Nothing that is damaged, missing, added or outside goes into a state."""
    change, problem = CASES[case]
    file = tmp_path / "x.backup"
    pack(folder, file, manifest_of(folder, 7, "1"), None, nothing)
    rewritten(file, change)
    with pytest.raises(ArchiveError, match=problem):
        unpack(file, tmp_path / "back", None, nothing)
    assert not (tmp_path / "evil").exists()
    with pytest.raises(StateError, match=problem):
        restore(file, tmp_path / "state", None, nothing)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_damage_anywhere_is_noticed(tmp_path, folder, passphrase):
    """A byte changed, the end cut off: no file that is not as it was."""
    file = tmp_path / "x.backup"
    pack(folder, file, manifest_of(folder, 7, "1"), passphrase, nothing)
    whole, wanted = file.read_bytes(), contents(folder)
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            file.write_bytes(damaged)
            back = tmp_path / f"back-{at}-{len(damaged)}"
            try:
                unpack(file, back, passphrase, nothing)
            except ArchiveError:
                pass
            else:  # a byte that means nothing, such as a time in a header
                assert contents(back) == wanted
            for name, data in contents(back).items() if back.exists() else ():
                assert data == wanted[name]


def test_a_restore_goes_on(tmp_path, folder):
    """What was written before it was interrupted stays, if it is right."""
    file, back = tmp_path / "x.backup", tmp_path / "back"
    pack(folder, file, manifest_of(folder, 7, "1"), None, nothing)
    unpack(file, back, None, nothing)
    kept, wrong = back / "telemetry/history/a.parquet", back / "pki/ca.pem"
    before = kept.stat().st_ino
    wrong.write_text("certifiCate")
    (back / "empty").unlink()
    unpack(file, back, None, nothing)
    assert contents(back) == contents(folder)
    assert kept.stat().st_ino == before


def _no_room(*_arguments) -> int:
    raise OSError(28, "No space left on device")


async def until_ended(client, answer) -> None:
    """An operation, however it ends."""
    for _ in range(500):
        if (await client.get(answer.headers["Location"])).json()["state"] != "running":
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def test_a_state_comes_back(client, core, tmp_path):
    """Devices, certificates, operators, telemetry, the audit log, which says so and verifies; into an empty state."""
    await add(client, "p1", site="hall")
    await client.put("/api/v1/operators/anna", json={"role": "viewer"})
    token = (await client.post("/api/v1/operators/anna/tokens", json={})).json()["token"]
    await store(core, "p1", b'{"v": 1}', b'{"v": 2}')
    file = tmp_path / "x.backup"
    answer = await client.post("/api/v1/backups", json={"file": str(file), "passphrase": PASSPHRASE.decode()})
    assert (await finished(client, answer))["encrypted"] is True
    (made,) = await entries(client, action="backup.make")
    assert (made["outcome"], made["facts"]) == ("done", {"file": str(file), "operation": answer.json()["id"]})
    for bad, problem in (
        ({"file": str(file)}, "exists already"),
        ({"file": "x"}, "not an absolute path"),
        ({"file": "/nowhere/at/all"}, "there is no folder"),
        ({"file": str(tmp_path / "y"), "passphrase": ""}, "passphrase"),
    ):
        refused = await client.post("/api/v1/backups", json=bad)
        assert (refused.status_code, problem in refused.json()["detail"]) == (422, True)
        assert "correct horse" not in refused.text
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fleetgate.backup.pack", _no_room)
        answer = await client.post("/api/v1/backups", json={"file": str(tmp_path / "z")})
        await until_ended(client, answer)
    failed = (await entries(client, action="backup.make"))[0]
    assert (failed["outcome"], "No space left" in failed["detail"]) == ("failed", True)
    state = tmp_path / "back"
    state.mkdir()
    restore(file, state, PASSPHRASE, nothing)
    with pytest.raises(ArgumentError, match="something already"):
        restore(file, state, PASSPHRASE, nothing)
    assert {path.stat().st_mode & 0o077 for path in state.rglob("*") if path.is_file()} == {0}
    async with open_core(Settings(), StateFolder(state)) as back:
        assert [member.name for member in back.registry.all()[0]] == ["p1"]
        assert back.operators.by_token(token).name == "anna"
        assert back.state.token() == core.state.token()
        assert [row.fields async for rows in back.store.rows(Selection("p1")) for row in rows] == [{"v": 1}, {"v": 2}]
        verification = await back.audit.verify()
        assert verification.fault is None
        newest = (await back.audit.find(Asked(), None, 1))[0].said
        assert (newest["actor"], newest["action"], newest["facts"]["file"]) == (
            "rule:restore", "backup.restore", "x.backup",
        )  # fmt: skip
        assert await back.audit.find(Asked(action="backup.make"), None, 1) == [], "the one that goes on in it"
    async with open_core(Settings(), StateFolder(state)) as back:
        assert len(await back.audit.find(Asked(action="backup.restore"), None, 10)) == 1


async def test_an_interrupted_backup_goes_on(core, tmp_path, monkeypatch):
    """What it had gathered stays beside it, and is gone when it is done; a file that is none is replaced."""
    file = tmp_path / "x.backup"
    partial = tmp_path / "x.backup.partial"
    (partial / "telemetry" / "history" / "old").mkdir(parents=True)
    (partial / "telemetry" / "history" / "old" / "gone.parquet").write_bytes(b"x")
    (partial / "pki").mkdir()
    (partial / "pki" / "other").write_text("x")
    operation = Operation("1", "backup", 0, 0, Begun("1", Act("anna", "backup.make", Via.API)))

    with monkeypatch.context() as patched:
        patched.setattr("fleetgate.backup.pack", _no_room)
        with pytest.raises(StateError, match="No space left"):
            await back_up(core, file, None, operation)
    assert (partial / "fleet.db").exists()
    assert not file.exists()
    await back_up(core, file, None, operation)
    assert not partial.exists()
    found = list(verified(file, None))
    assert "fleet.db" in found
    assert "pki/other" not in found
    assert "telemetry/history/old/gone.parquet" not in found
    assert operation.done == operation.total > 0


def test_a_passphrase_is_not_shown():
    """Not where a request is printed."""
    assert "correct" not in repr(BackupTarget(file="/x", passphrase="correct horse"))
