"""The audit log as the registry has it: what is begun, what came of it, and whether all of it is still there."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import orjson
import structlog
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.audit.checkpoint import Checkpoint, CheckpointError, read_checkpoint, signed_bytes
from fleet.audit.model import (
    Act,
    Checking,
    End,
    Entry,
    Fault,
    Outcome,
    Result,
    Via,
    Wrong,
    cleaned,
    difference,
    entry_of,
)
from fleet.authority import Authority
from fleet.errors import FleetError
from fleet.registry.database import Database
from fleet.registry.schema import audit, audit_begun, audit_targets, facts
from ingester.clock import Clock, now_us
from ingester.errors import IngestError

log = structlog.get_logger("fleetgate.fleet")

END = "audit"
"""The fact of the registry that the signed end is kept as."""
_SLICE = 1000
_NAME = 256
_KIND = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """Which entries are asked for; None: whatever it is. `action` may end in `*`; times are microseconds."""

    actor: str | None = None
    action: str | None = None
    outcome: Outcome | None = None
    target: str | None = None
    since: int | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """How many entries are as they were made, and the first one that is not."""

    entries: int
    fault: Fault | None


@dataclass(frozen=True, slots=True)
class Begun:
    """What somebody is about to do, or does: the log has noted it as `id`, and has its entry when it ends."""

    id: str
    act: Act


class AuditLog:
    """An async context manager. Entries are written one behind the other, each in a transaction with the signed end.

    Every method raises RegistryUnavailableError while the registry can't be read or written.
    """

    def __init__(self, database: Database, authority: Authority, clock: Clock = now_us) -> None:
        self._database = database
        self._authority = authority
        self._clock = clock
        self._end = End()

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            last = (await connection.execute(_newest(1))).first()
            signed, lost = await self._signed_or_lost(connection)
            begun = (await connection.execute(audit_begun.select())).all()
        there = End(last.seq, last.hash) if last is not None else End()
        # What was signed for goes on, whatever became of the entries: `verify` is to find what is missing.
        self._end = signed.end if signed is not None else there
        if signed is None and last is not None:
            await self.add(Act("rule:start", "audit.end", Via.RULE), Result(Outcome.FAILED, "end", lost))
        elif self._end != there:
            log.error("the audit log does not end where it was signed for: see fleetgate audit verify")
        for row in begun:
            await self._append(_act(orjson.loads(row.entry)), Result(Outcome.INTERRUPTED), row.id)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open."""

    async def begin(self, act: Act) -> Begun:
        """Note what somebody is about to do, before it is done; returns what `end` is called with."""
        found = secrets.token_hex(16)
        async with self._database.transaction() as connection:
            await connection.execute(audit_begun.insert(), [{"id": found, "entry": _begun(act)}])
        return Begun(found, act)

    async def end(self, begun: Begun, result: Result) -> None:
        """Write the entry of what was begun."""
        await self._append(begun.act, result, begun.id)

    async def add(self, act: Act, result: Result) -> None:
        """Write an entry of what was not begun: it was refused, or is part of something that was."""
        await self._append(act, result, None)

    async def _append(self, act: Act, result: Result, begun: str | None) -> None:
        async with self._database.transaction() as connection:
            now = self._clock()
            entry = entry_of(self._end, now, act, result)
            end = End(entry.seq, entry.hash)
            # an RSA key takes a while
            signature = await asyncio.to_thread(self._authority.sign, signed_bytes(end, now))
            checkpoint = Checkpoint(end, now, signature, self._authority.certificate)
            row = {"seq": entry.seq, "at": now, "entry": entry.text, "hash": entry.hash}
            said = entry.said
            found_by = {"actor": said["actor"][:160], "action": said["action"][:64], "outcome": said["outcome"]}
            await connection.execute(audit.insert(), [{**row, **found_by}])
            targets = {(kind[:_KIND], name[:_NAME]) for kind, name in said["targets"]}
            if targets:
                rows = [{"kind": kind, "name": name, "seq": entry.seq} for kind, name in sorted(targets)]
                await connection.execute(audit_targets.insert(), rows)
            kept = {"name": END, "value": json.dumps(checkpoint.document())}
            await connection.execute(self._database.upsert(facts), [kept])
            if begun is not None:
                await connection.execute(audit_begun.delete().where(audit_begun.c.id == begun))
        self._end = end

    async def find(self, asked: Asked, before: int | None, limit: int) -> list[Entry]:
        """The newest entries of those asked for, the newest first; `before`: older than the one of that number."""
        statement = _newest(limit)
        if before is not None:
            statement = statement.where(audit.c.seq < before)
        if asked.actor is not None:
            statement = statement.where(audit.c.actor == asked.actor)
        if asked.action is not None:
            name = asked.action.removesuffix("*")
            same = audit.c.action == name
            starts = audit.c.action.startswith(name, autoescape=True)
            statement = statement.where(starts if asked.action.endswith("*") else same)
        if asked.outcome is not None:
            statement = statement.where(audit.c.outcome == asked.outcome.value)
        if asked.target is not None:
            kind, _, name = asked.target.rpartition(":") if ":" in asked.target else ("", "", asked.target)
            of = select(audit_targets.c.seq).where(audit_targets.c.name == name)
            statement = statement.where(audit.c.seq.in_(of.where(audit_targets.c.kind == kind) if kind else of))
        if asked.since is not None:
            statement = statement.where(audit.c.at >= asked.since)
        if asked.until is not None:
            statement = statement.where(audit.c.at <= asked.until)
        async with self._database.reading() as connection:
            return [_entry(row) for row in await connection.execute(statement)]

    async def entries(self) -> AsyncIterator[Sequence[Entry]]:
        """All entries there are at this moment, in their order, in slices."""
        last, end = 0, self._end.seq
        while last < end:
            statement = audit.select().where(audit.c.seq > last, audit.c.seq <= end).order_by(audit.c.seq)
            async with self._database.reading() as connection:
                found = [_entry(row) for row in await connection.execute(statement.limit(_SLICE))]
            if not found:
                return
            yield found
            last = found[-1].seq

    async def checkpoint(self) -> Checkpoint | None:
        """The end, signed; None while there is no entry."""
        async with self._database.reading() as connection:
            return await self._signed(connection)

    async def verify(self, known: Sequence[Checkpoint] = ()) -> Verified:
        """Look at all entries, and whether the log has those that checkpoints kept elsewhere were made of."""
        checking = Checking(point.end for point in known)
        async with self._database.reading() as connection:
            # one state of everything: nothing is written between the first entry and the signed end
            signed, lost = await self._signed_or_lost(connection)
            if (fault := self._check(signed, lost)) is not None:
                return Verified(0, fault)
            last: int | None = None
            while last != checking.end.seq:
                last = checking.end.seq
                found = await connection.execute(
                    audit.select().where(audit.c.seq > last).order_by(audit.c.seq).limit(_SLICE)
                )
                rows = found.all()
                fault = await asyncio.to_thread(_check_rows, checking, rows)
                if fault is not None:
                    return Verified(checking.end.seq, fault)
            ((fewer,),) = (await connection.execute(select(func.count()).where(audit.c.seq < 1))).all()
        fault = checking.finish(signed.end if signed is not None else None)
        if fault is None and fewer:
            fault = Fault(0, Wrong.REORDERED, "there are entries before the first one")
        return Verified(checking.end.seq, fault)

    def _check(self, signed: Checkpoint | None, lost: str) -> Fault | None:
        if signed is None:
            return Fault(self._end.seq, Wrong.END, lost) if self._end.seq else None
        try:
            signed.check([self._authority.root, self._authority.certificate])
        except CheckpointError as error:
            return Fault(signed.end.seq, Wrong.END, str(error))
        return None

    async def _signed_or_lost(self, connection: AsyncConnection) -> tuple[Checkpoint | None, str]:
        """The signed end, or why there is none."""
        try:
            return await self._signed(connection), "the signed end of the log is missing"
        except CheckpointError as error:
            return None, str(error)

    async def _signed(self, connection: AsyncConnection) -> Checkpoint | None:
        statement = select(facts.c.value).where(facts.c.name == END)
        kept = (await connection.execute(statement)).scalar()
        if kept is None:
            return None
        try:
            document = json.loads(kept)
        except ValueError as error:
            raise CheckpointError(f"checkpoint: {error}") from error
        return read_checkpoint(document)


@dataclass(slots=True)
class Noted:
    """What was there before something was done, and after it."""

    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


@asynccontextmanager
async def acting(log: AuditLog | None, act: Act) -> AsyncIterator[Noted]:
    """The block does what is said, by a rule: it is in the log, with what is noted; also when an error ends it."""
    noted = Noted()
    if log is None:
        yield noted
        return
    begun = await log.begin(act)
    try:
        yield noted
    except (FleetError, IngestError) as error:
        await log.end(begun, Result(Outcome.FAILED, "failed", str(error)))
        raise
    was, became = difference(noted.before or {}, noted.after or {})
    await log.end(begun, Result(Outcome.DONE, before=was or None, after=became or None))


def _check_rows(checking: Checking, rows: Sequence[Any]) -> Fault | None:
    for row in rows:
        entry = _entry(row)
        if (fault := checking.check([entry])) is not None:
            return fault
        said = entry.said
        found_by = row.actor, row.action, row.outcome
        if found_by != (said["actor"][:160], said["action"][:64], said["outcome"]):
            return Fault(entry.seq, Wrong.ALTERED, f"entry {entry.seq} is found by what it does not say")
    return None


def _newest(limit: int) -> Select[Any]:
    return audit.select().order_by(audit.c.seq.desc()).limit(limit)


def _entry(row: Any) -> Entry:
    return Entry(row.seq, row.at, row.entry, row.hash)


def _begun(act: Act) -> str:
    said = {
        "actor": act.actor,
        "action": act.action,
        "via": act.via.value,
        "credential": act.credential,
        "address": act.address,
        "targets": [list(target) for target in act.targets],
        "facts": dict(act.facts),
    }
    return orjson.dumps(cleaned(said)).decode()


def _act(said: dict[str, Any]) -> Act:
    targets = tuple((kind, name) for kind, name in said.pop("targets"))
    return replace(Act(**{**said, "via": Via(said["via"])}), targets=targets)
