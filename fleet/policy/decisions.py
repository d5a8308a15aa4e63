"""What was decided lately: who asked for what, what the answer was, and which statement gave it.

The same decision is kept once, with how often it was made and when last. It is written down every few seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from sqlalchemy import and_, bindparam

from fleet.policy.compiled import Caller, Compiled, Decision
from fleet.policy.document import Action
from fleet.registry.database import Database
from fleet.registry.schema import decisions
from fleet.registry.write_behind import WriteBehind
from ingester.clock import Clock, now_us
from ingester.periodic import Background

_WRITE_SECONDS = 2.0
_NEWS_US = 600_000_000
_SLICE = 2000
_RESOURCE_CHARACTERS = 1024
_DETAIL_CHARACTERS = 500

Key = tuple[str, str, str, str]
"""Device, action, resource, reason."""


@dataclass(slots=True)
class Kept:
    """One decision; `reason` is one of a policy, or that of a refused connect. Times: microseconds since 1970.

    `written` is the time that fleet.db has as the last one, 0: none.
    """

    caller: Caller
    action: str
    resource: str
    decision: Decision
    detail: str
    first: int
    last: int
    times: int = 1
    written: int = field(default=0, compare=False)

    @property
    def key(self) -> Key:
        """What it is kept by."""
        return self.caller.device, self.action, self.resource, self.decision.reason


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: of one device, in all, and for how many microseconds since it was decided last."""

    per_device: int = 100
    total: int = 10_000
    age_us: int = 86_400_000_000


class _Bin:
    """Entries by key, the one that was decided last at the end; and the keys of each device, in the same order."""

    __slots__ = ("bounds", "entries", "of_device")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.entries: dict[Key, Kept] = {}
        self.of_device: dict[str, list[Key]] = {}

    def put(self, key: Key, entry: Kept) -> Iterator[Kept]:
        """Keep one, new or known; yields those that had to go."""
        keys = self.of_device.get(key[0])
        if keys is None:
            keys = self.of_device[key[0]] = []
        if self.entries.pop(key, None) is not None:
            keys.remove(key)
        self.entries[key] = entry
        keys.append(key)
        if len(keys) > self.bounds.per_device:
            yield self.drop(keys[0])
        if len(self.entries) > self.bounds.total:
            yield self.drop(next(iter(self.entries)))

    def drop(self, key: Key) -> Kept:
        gone = self.entries.pop(key)
        keys = self.of_device[key[0]]
        keys.remove(key)
        if not keys:
            del self.of_device[key[0]]
        return gone

    def old(self, now: int) -> list[Key]:
        found = []
        for key, entry in self.entries.items():
            if now - entry.last <= self.bounds.age_us:
                break
            found.append(key)
        return found


class Decisions:
    """An async context manager around what fleet.db has of them."""

    def __init__(
        self,
        database: Database,
        refused: Bounds | None = None,
        allowed: Bounds | None = None,
        clock: Clock = now_us,
        background: Background | None = None,
        expires_by: Clock | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._expires_by = expires_by or clock
        self._refused = _Bin(refused or Bounds())
        self._allowed = _Bin(allowed or Bounds(total=50_000))
        self._unwritten: dict[Key, Kept | None] = {}
        self._written = WriteBehind("decisions", self._write_all, _WRITE_SECONDS, background)

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            for row in await connection.execute(decisions.select().order_by(decisions.c.last)):
                entry = _read(row)
                one = self._allowed if entry.decision.allowed else self._refused
                for gone in one.put(entry.key, entry):
                    self._gone(gone)
        await self._written.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for key, entry in self._allowed.entries.items():
            if entry.last != entry.written:
                self._unwritten.setdefault(key, entry)
        await self._written.__aexit__()

    def seen(self, rights: Compiled, action: Action, resource: str, decision: Decision) -> None:
        """See compiled.Seen."""
        self._keep(rights.caller, action, resource, decision, "")

    def refused(self, caller: Caller, reason: str, detail: str) -> None:
        """A connect was refused, by something else than a policy."""
        self._keep(caller, Action.CONNECT, caller.client_id, Decision(False, reason), detail)

    def of(self, device: str | None, *, refused_only: bool, since: int = 0) -> list[Kept]:
        """Those of a device, or of all, the newest first."""
        found = []
        for one in (self._refused,) if refused_only else (self._refused, self._allowed):
            keys = one.entries if device is None else one.of_device.get(device, ())
            found += [one.entries[key] for key in keys if one.entries[key].last >= since]
        return sorted(found, key=lambda entry: entry.last, reverse=True)

    def forget(self, device: str) -> None:
        """A device is gone, and fleet.db has forgotten what was decided about it."""
        for one in (self._refused, self._allowed):
            for key in list(one.of_device.get(device, ())):
                self._gone(one.drop(key))

    def _keep(self, caller: Caller, action: Action, resource: str, decision: Decision, detail: str) -> None:
        now = self._clock()
        if len(resource) > _RESOURCE_CHARACTERS:
            resource = resource[:_RESOURCE_CHARACTERS]
        key = caller.device, action.value, resource, decision.reason
        one = self._allowed if decision.allowed else self._refused
        entry = one.entries.get(key)
        if entry is None:
            entry = Kept(caller, action.value, resource, decision, detail[:_DETAIL_CHARACTERS], now, now)
        else:
            entry.caller, entry.decision, entry.detail = caller, decision, detail[:_DETAIL_CHARACTERS]
            entry.last, entry.times = now, entry.times + 1
        for gone in one.put(key, entry):
            self._gone(gone)
        # What is allowed again and again is not written down each time: a fleet that reconnects is no news.
        if not decision.allowed or now - entry.written > _NEWS_US:
            self._unwritten[key] = entry

    def _gone(self, entry: Kept) -> None:
        """What was never written down need not be deleted: who asks for ever new things makes no work of it."""
        if entry.written:
            self._unwritten[entry.key] = None
        else:
            self._unwritten.pop(entry.key, None)

    async def _write_all(self) -> None:
        now = self._expires_by()
        for one in (self._refused, self._allowed):
            for key in one.old(now):
                self._gone(one.drop(key))
        while self._unwritten:
            await self._write()

    async def _write(self) -> None:
        keys = list(self._unwritten)[:_SLICE]
        found = {key: self._unwritten.pop(key) for key in keys}
        try:
            async with self._database.transaction() as connection:
                if gone := [_key_row(key) for key, entry in found.items() if entry is None]:
                    await connection.execute(_delete, gone)
                if rows := [_row(entry) for entry in found.values() if entry is not None]:
                    await connection.execute(self._database.upsert(decisions), rows)
        except BaseException:
            self._unwritten = {**found, **self._unwritten}
            raise
        for entry in found.values():
            if entry is not None:
                entry.written = entry.last


_KEYS = ("device", "action", "resource", "reason")
_delete = decisions.delete().where(and_(*(decisions.c[name] == bindparam(f"the_{name}") for name in _KEYS)))


def _key_row(key: Key) -> dict[str, str]:
    return {f"the_{name}": value for name, value in zip(_KEYS, key, strict=True)}


def _row(entry: Kept) -> dict[str, Any]:
    caller, decision = entry.caller, entry.decision
    return {
        **dict(zip(_KEYS, entry.key, strict=True)),
        "allowed": decision.allowed,
        "detail": entry.detail,
        "policy": decision.policy,
        "policy_version": decision.version,
        "statement": decision.statement,
        "client_id": caller.client_id,
        "address": caller.address,
        "tls": caller.tls,
        "listener": caller.listener,
        "fingerprint": caller.fingerprint,
        "first": entry.first,
        "last": entry.last,
        "times": entry.times,
    }


def _read(row: Any) -> Kept:
    return Kept(
        Caller(row.device, row.client_id, row.address, row.tls, row.listener, row.fingerprint),
        row.action,
        row.resource,
        Decision(row.allowed, row.reason, row.policy, row.policy_version, row.statement),
        row.detail,
        row.first,
        row.last,
        row.times,
        row.last,
    )
