"""The audit log: what is in it, and that what is changed in it is named."""

import json
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.audit.checkpoint import CheckpointError, read_checkpoint
from fleet.audit.export import verify_export
from fleet.audit.model import Act, Checking, End, Entry, Outcome, Result, Via, Wrong, cleaned, difference, entry_of
from fleet.audit.service import Asked, AuditLog
from fleet.authority import Authority
from fleet.registry import Registry

pytestmark = pytest.mark.usefixtures("both_databases")

T = 1_795_392_000_000_000


class Clock:
    """Which time it is."""

    def __init__(self) -> None:
        self.now = T

    def __call__(self) -> int:
        self.now += 1_000_000
        return self.now


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "pki", "test", 30)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(tmp_path, authority, clock):
    @asynccontextmanager
    async def opening():
        async with Registry(tmp_path / "fleet.db") as registry, AuditLog(registry.database, authority, clock) as log:
            yield log

    return opening


def act(name: str = "pump-1", actor: str = "anna") -> Act:
    return Act(actor, "device.retire", Via.API, "token 1", "192.0.2.1", (("device", name),), {"query": {"x": "1"}})


DONE = Result(Outcome.DONE, before={"state": "active"}, after={"state": "retired"})


async def fill(log: AuditLog, count: int = 5) -> None:
    for number in range(count):
        await log.add(act(f"pump-{number}", "anna" if number % 2 else "bert"), DONE)


async def change(log: AuditLog, *statements: str) -> None:
    """As somebody does who has the database."""
    async with log._database.transaction() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def test_who_did_what_to_whom(opened):
    """By which credential, from where, before and after; found by each of them, the newest first."""
    async with opened() as log:
        begun = await log.begin(act())
        await log.end(begun, DONE)
        await log.add(act("pump-2", "bert"), Result(Outcome.REFUSED, "forbidden", "not yours"))
        newest, first = await log.find(Asked(), None, 10)
        assert first.said == {
            "seq": 1,
            "at": first.at,
            "actor": "anna",
            "action": "device.retire",
            "via": "api",
            "credential": "token 1",
            "address": "192.0.2.1",
            "targets": [["device", "pump-1"]],
            "outcome": "done",
            "facts": {"query": {"x": "1"}},
            "before": {"state": "active"},
            "after": {"state": "retired"},
        }
        assert (newest.said["code"], newest.said["detail"]) == ("forbidden", "not yours")

        async def seqs(before: int | None = None, limit: int = 10, **asked) -> list[int]:
            return [entry.seq for entry in await log.find(Asked(**asked), before, limit)]

        assert await seqs(actor="anna") == [1]
        assert await seqs(action="device.*") == [2, 1]
        assert await seqs(action="device.%") == await seqs(action="device") == []
        assert await seqs(outcome=Outcome.REFUSED) == [2]
        assert await seqs(target="device:pump-1") == await seqs(target="pump-1") == [1]
        assert await seqs(target="type:pump-1") == []
        assert await seqs(since=newest.at) == [2]
        assert await seqs(until=first.at) == [1]
        assert await seqs(before=2) == await seqs(before=2, limit=1) == [1]


async def test_whatever_is_asked_for_can_be_written(opened):
    """Names that are no names, in texts that are no Unicode: in both databases."""
    async with opened() as log:
        odd = Act("\ud800\0", "x", Via.API, targets=(("device", "a\0\udfff"),), facts={"\ud800": ["\0", {"x": 1.5}]})
        await log.end(await log.begin(odd), Result(Outcome.FAILED, detail="\udc00"))
        (entry,) = await log.find(Asked(), None, 10)
        assert entry.said["targets"] == [["device", "a\ufffd?"]]
        assert entry.said["facts"] == {"?": ["\ufffd", {"x": 1.5}]}
        assert (await log.verify()).fault is None


async def test_what_was_begun_and_never_ended_is_in_the_log(opened):
    """The process came to its end in the middle: the next start says so."""
    async with opened() as log:
        await log.begin(act())
    async with opened() as log:
        (entry,) = await log.find(Asked(), None, 10)
        assert (entry.said["outcome"], entry.said["targets"]) == ("interrupted", [["device", "pump-1"]])
    async with opened() as log:
        assert len(await log.find(Asked(), None, 10)) == 1


async def test_a_log_goes_on_and_verifies(opened):
    """Over starts; checkpoints of before are still right."""
    async with opened() as log:
        assert (await log.verify()).fault is None
        await fill(log)
        point = await log.checkpoint()
    async with opened() as log:
        await fill(log, 2)
        found = await log.verify([point])
        assert (found.entries, found.fault) == (7, None)


CASES = {
    "altered": (["UPDATE audit SET entry = replace(entry, 'bert', 'anna') WHERE seq = 3"], 3, Wrong.ALTERED),
    "found by another name": (["UPDATE audit SET actor = 'x' WHERE seq = 2"], 2, Wrong.ALTERED),
    "another time": (["UPDATE audit SET at = at + 1 WHERE seq = 4"], 4, Wrong.ALTERED),
    "not JSON": (["UPDATE audit SET entry = 'x' WHERE seq = 4"], 4, Wrong.ALTERED),
    "removed": (["DELETE FROM audit WHERE seq = 3"], 3, Wrong.REMOVED),
    "the first removed": (["DELETE FROM audit WHERE seq = 1"], 1, Wrong.REMOVED),
    "the last removed": (["DELETE FROM audit WHERE seq = 5"], 5, Wrong.REMOVED),
    "all removed": (["DELETE FROM audit"], 1, Wrong.REMOVED),
    "reordered": (
        [
            "UPDATE audit SET seq = 100 WHERE seq = 2",
            "UPDATE audit SET seq = 2 WHERE seq = 3",
            "UPDATE audit SET seq = 3 WHERE seq = 100",
        ],
        2,
        Wrong.REORDERED,
    ),
    "moved up": (
        ["DELETE FROM audit WHERE seq = 3", "UPDATE audit SET seq = 3 WHERE seq = 4"], 3, Wrong.REORDERED,
    ),
    "one behind the end": (
        [
            "INSERT INTO audit SELECT 6, at, actor, action, outcome, replace(entry, '\"seq\":5', '\"seq\":6'), hash"
            " FROM audit WHERE seq = 5"
        ],
        6,
        Wrong.ALTERED,
    ),
    "one before the first": (["UPDATE audit SET seq = 0 WHERE seq = 1"], 1, Wrong.REMOVED),
    "the end forged": (["UPDATE facts SET value = replace(value, '\"seq\": 5', '\"seq\": 4')"], 5, Wrong.END),
    "the end lost": (["DELETE FROM facts WHERE name = 'audit'"], 5, Wrong.END),
    "the end garbled": (["UPDATE facts SET value = '{' WHERE name = 'audit'"], 5, Wrong.END),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_what_is_changed_is_named(opened, case: str):
    """Entries altered, removed, reordered, added: the first bad one (case 46)."""
    statements, seq, wrong = CASES[case]
    async with opened() as log:
        await fill(log)
        await change(log, *statements)
        fault = (await log.verify()).fault
        assert fault is not None
        assert (fault.wrong, fault.seq if wrong is not Wrong.END else seq) == (wrong, seq), fault


async def test_a_chain_that_is_made_anew_has_no_signature(opened, authority):
    """Who has the database and not the authority's key can't hide a change, not even in all hashes behind it."""
    async with opened() as log:
        await fill(log, 3)
        point = await log.checkpoint()
        chain, forged = End(), []
        for number in range(3):
            entry = entry_of(chain, T + number, act(f"other-{number}"), DONE)
            forged.append(entry)
            chain = End(entry.seq, entry.hash)
        rows = [
            f"UPDATE audit SET at = {entry.at}, actor = 'anna', hash = '{entry.hash}', entry = '{entry.text}'"
            f" WHERE seq = {entry.seq}"
            for entry in forged
        ]
        await change(log, *rows)
        fault = (await log.verify()).fault
        assert (fault.seq, fault.wrong) == (3, Wrong.ALTERED)
        document = {**point.document(), "hash": chain.hash}
        await change(log, f"UPDATE facts SET value = '{json.dumps(document)}' WHERE name = 'audit'")
        fault = (await log.verify()).fault
        assert (fault.wrong, fault.detail) == (Wrong.END, "checkpoint: its signature does not hold")
        other = Authority(authority._folder.parent / "other", "test", 30)
        with pytest.raises(CheckpointError, match="no authority here"):
            point.check([other.root])


async def test_a_log_that_was_rolled_back_does_not_know_its_checkpoint(opened, tmp_path, request):
    """An older copy of the whole database verifies by itself: a checkpoint that was kept elsewhere tells."""
    if "postgresql" in request.node.name:
        pytest.skip("a copy of the file")
    async with opened() as log:
        await fill(log, 3)
    before = (tmp_path / "fleet.db").read_bytes()
    async with opened() as log:
        await fill(log, 3)
        point = await log.checkpoint()
    for path in tmp_path.glob("fleet.db-*"):
        path.unlink()
    (tmp_path / "fleet.db").write_bytes(before)
    async with opened() as log:
        assert (await log.verify()).fault is None
        fault = (await log.verify([point])).fault
        assert (fault.seq, fault.wrong) == (4, Wrong.REMOVED)
        await fill(log, 3)
        fault = (await log.verify([point])).fault
        assert (fault.seq, fault.wrong) == (6, Wrong.ALTERED)


async def test_entries_that_went_before_a_start_are_missed(opened):
    """The log goes on behind what was signed for: nothing takes the place of what is gone."""
    async with opened() as log:
        await fill(log, 4)
        await change(log, "DELETE FROM audit WHERE seq > 2")
    async with opened() as log:
        await fill(log, 1)
        fault = (await log.verify()).fault
        assert (fault.seq, fault.wrong) == (3, Wrong.REMOVED)


async def test_a_lost_end_is_noted(opened):
    """An entry says that it was."""
    async with opened() as log:
        await fill(log, 2)
        await change(log, "DELETE FROM facts WHERE name = 'audit'")
    async with opened() as log:
        (entry,) = await log.find(Asked(action="audit.end"), None, 10)
        assert (entry.seq, entry.said["outcome"], entry.said["actor"]) == (3, "failed", "rule:start")
        assert (await log.verify()).fault is None


async def test_a_clock_that_goes_back_is_named(opened, clock):
    """An entry that says that it was made before the one before; a clock that is set right is none."""
    async with opened() as log:
        await fill(log, 2)
        clock.now -= 4_000_000
        await fill(log, 1)
        assert (await log.verify()).fault is None
        clock.now -= 3_600_000_000
        await fill(log, 1)
        fault = (await log.verify()).fault
        assert (fault.seq, fault.wrong) == (4, Wrong.CLOCK)
        assert "3599 s before entry 3" in fault.detail


async def exported(log: AuditLog) -> list[bytes]:
    found = [
        json.dumps({"entry": entry.text, "hash": entry.hash}).encode()
        async for entries in log.entries()
        for entry in entries
    ]
    return [*found, json.dumps({"checkpoint": (await log.checkpoint()).document()}).encode()]


async def test_an_export_verifies_by_itself(opened, authority):
    """With the authority's certificate and nothing else; each change is named."""
    async with opened() as log:
        await fill(log, 4)
        early = await log.checkpoint()
        await fill(log, 1)
        lines = await exported(log)
        late = await log.checkpoint()
    roots = [authority.root]

    def fault(changed: list[bytes], *known):
        found = verify_export(changed, roots, known)[1]
        return None if found is None else (found.seq, found.wrong)

    assert verify_export(lines, roots, [early, late]) == (5, None)
    assert fault([*lines[:2], lines[3], lines[2], *lines[4:]]) == (3, Wrong.REORDERED)
    assert fault([*lines[:2], *lines[3:]]) == (3, Wrong.REMOVED)
    assert fault([lines[0], lines[1].replace(b"pump-1", b"pump-9"), *lines[2:]]) == (2, Wrong.ALTERED)
    assert fault([lines[0], b"nonsense", *lines[2:]]) == (2, Wrong.ALTERED)
    assert fault([lines[0], b'{"hash": 1}', *lines[1:]]) == (2, Wrong.ALTERED)
    assert fault(lines[:-1]) == (5, Wrong.END)
    assert fault([*lines[:3], lines[-1]]) == (4, Wrong.REMOVED)
    assert fault([*lines[:4], json.dumps({"checkpoint": early.document()}).encode()], late) == (5, Wrong.REMOVED)
    other = json.dumps({"checkpoint": {**early.document(), "at": 1}}).encode()
    assert fault([*lines[:-1], other]) == (5, Wrong.END)
    assert fault(lines, read_checkpoint(early.document())) is None
    others, end = [], End()
    for number in range(5):  # another log of the same authority, whose checkpoint it can't have
        entry = entry_of(end, T + number, act(f"other-{number}"), DONE)
        end = End(entry.seq, entry.hash)
        others.append(json.dumps({"entry": entry.text, "hash": entry.hash}).encode())
    assert fault([*others, lines[-1]], early) == (4, Wrong.ALTERED)
    assert fault([*others, lines[-1]]) == (5, Wrong.ALTERED)
    assert fault([]) is None
    assert fault([*lines[:5], json.dumps({"checkpoint": early.document()}).encode()]) == (5, Wrong.END)
    with pytest.raises(CheckpointError, match="does not hold"):
        verify_export(lines, roots, [read_checkpoint({**early.document(), "hash": "00" * 32})])


@pytest.mark.parametrize("document", [{}, {"seq": 1}, {"seq": "x", "hash": "", "at": 1, "signature": "", "signer": ""}])
def test_what_is_no_checkpoint(document: dict):
    """Is said."""
    with pytest.raises(CheckpointError, match="not one with seq, hash"):
        read_checkpoint(document)


ENTRIES = st.lists(st.tuples(st.text(max_size=5), st.integers(0, 10**9)), min_size=2, max_size=8)


def chain_of(values: list[tuple[str, int]]) -> list[Entry]:
    end, found = End(), []
    for at, (name, _) in enumerate(values):
        entry = entry_of(end, T + at, act(name), DONE)
        end = End(entry.seq, entry.hash)
        found.append(entry)
    return found


@settings(max_examples=200)
@given(ENTRIES, st.data())
def test_no_change_goes_unnoticed(values: list[tuple[str, int]], data):
    """Whatever entry is altered, left out, doubled or exchanged with another: the first one that is not right."""
    entries = chain_of(values)
    end = End(entries[-1].seq, entries[-1].hash)
    checking = Checking()
    assert checking.check(entries) is None
    assert checking.finish(end) is None
    at = data.draw(st.integers(0, len(entries) - 1))
    other = data.draw(st.integers(0, len(entries) - 1).filter(lambda found: found != at))
    swapped = list(entries)
    swapped[at], swapped[other] = swapped[other], swapped[at]
    entry = entries[at]
    altered = Entry(entry.seq, entry.at, entry.text.replace("device.retire", "device.enable"), entry.hash)
    for changed, first in (
        ([*entries[:at], *entries[at + 1 :]], at + 1),
        ([*entries[:at], altered, *entries[at + 1 :]], at + 1),
        ([*entries[: at + 1], *entries[at:]], at + 1),
        (swapped, min(at, other) + 1),
    ):
        checking = Checking()
        fault = checking.check(changed) or checking.finish(end)
        assert fault is not None
        assert fault.seq == first


def test_only_what_is_different_is_kept():
    """As it was and as it is; keys that came and went."""
    assert difference({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4}) == ({"b": 2, "c": 3}, {"b": 3, "d": 4})


def test_very_many_targets():
    """Are counted; the first ones are named."""
    many = Act("a", "device.import", Via.CLI, targets=tuple(("device", f"d{n}") for n in range(10_001)))
    said = entry_of(End(), T, many, DONE).said
    assert (len(said["targets"]), said["targets_total"]) == (10_000, 10_001)


def test_what_can_be_written_anywhere():
    """Texts without NUL and halves of characters; numbers of 64 bits, larger ones as texts."""
    said = {"a\0": ["\ud800", 2**63, -(2**63), True, None, 1.5], "b": (2**64, -(2**63) - 1)}
    assert cleaned(said) == {
        "a\ufffd": ["?", 2**63, -(2**63), True, None, 1.5],
        "b": ["18446744073709551616", "-9223372036854775809"],
    }
