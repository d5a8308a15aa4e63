"""Rules of the life of devices as the registry has them, and their runs: dry first, then by themselves."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import structlog

from fleet.audit.model import Act, Outcome, Result, Via
from fleet.audit.service import AuditLog, acting
from fleet.devices import Devices
from fleet.errors import ConflictError, FleetError, NotFoundError
from fleet.identity import Kind
from fleet.lifecycle.model import Rule, Telemetry, Then, from_object, source_of
from fleet.registry.database import FAILURES
from fleet.registry.details import check_word
from fleet.registry.inventory import Inventory
from fleet.registry.model import State, check_version
from fleet.registry.schema import lifecycle_rules
from fleet.registry.service import Registry
from ingester.clock import Clock, now_us
from ingester.errors import IngestError
from ingester.periodic import Background, Every

log = structlog.get_logger("fleetgate.fleet")

_FAILED = (FleetError, IngestError, *FAILURES)
_LOOK_SECONDS = 30.0
_MAX_TEXT = 1000
_PAGE = 1000
_ACTIONS = {Then.SUSPEND: "device.disable", Then.RETIRE: "device.retire", Then.DELETE: "device.delete"}
"""As the API calls them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule as it is kept. `tried` is the version that ran dry last; `ran` is when it ran, `problem` what was wrong
    then.
    """

    name: str
    rule: Rule
    version: int
    tried: int = 0
    enabled: bool = False
    ran: int = 0
    problem: str = ""
    created: int = 0
    updated: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What a run did, or would do: the devices, in order, and what was wrong with it."""

    devices: Sequence[str]
    problem: str = ""


class Lifecycle:
    """An async context manager: `start` begins to run rules that are enabled, when each is due.

    `expires_by` is the time that rules go by: it does not follow a wall clock that is set ahead by mistake, see
    ingester.ages.

    What a run does to each device is in the audit log, as done by `rule:NAME`.
    """

    def __init__(
        self,
        registry: Registry,
        inventory: Inventory,
        audit: AuditLog,
        devices: Devices,
        clock: Clock = now_us,
        background: Background | None = None,
        expires_by: Clock | None = None,
    ) -> None:
        self._registry = registry
        self._database = registry.database
        self._inventory = inventory
        self._audit = audit
        self._devices = devices
        self._clock = clock
        self._expires_by = expires_by or clock
        self._rules: dict[str, Kept] = {}
        self._running = asyncio.Lock()
        self._every = Every("lifecycle", _LOOK_SECONDS, self._run_due, failures=_FAILED, background=background)

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            self._rules = {row.name: _read(row) for row in await connection.execute(lifecycle_rules.select())}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._every.stop()

    def start(self) -> None:
        """Run rules when they are due."""
        self._every.start()

    def all(self) -> Sequence[Kept]:
        """All rules by name."""
        return [self._rules[name] for name in sorted(self._rules)]

    def get(self, name: str) -> Kept:
        """One rule; raises NotFoundError."""
        if name not in self._rules:
            raise NotFoundError(f"no rule named {name[:128]!r}")
        return self._rules[name]

    async def put(self, name: str, rule: Rule, expected: int | None = None) -> Kept:
        """Make a rule, or change it: it does nothing until it ran dry and is enabled. Raises StaleError, QueryError."""
        check_word("name", name)
        await self._inventory.count(rule.when)  # groups that it asks for are there
        async with self._database.transaction() as connection:
            known = self._rules.get(name)
            version = check_version(f"rule {name}", known.version if known else 0, expected)
            now = self._clock()
            kept = Kept(name, rule, version, created=known.created if known else now, updated=now)
            await connection.execute(self._database.upsert(lifecycle_rules), [_row(kept)])
        self._rules[name] = kept
        return kept

    async def enable(self, name: str, *, enabled: bool) -> Kept:
        """Let a rule run by itself, or no more. Raises NotFoundError, ConflictError for one that never ran dry."""
        if enabled and (known := self.get(name)).tried != known.version:
            raise ConflictError(f"rule {name}: run version {known.version} dry first, to see what it would do")
        return await self._change(name, enabled=enabled)

    async def delete(self, name: str) -> None:
        """Delete a rule. Raises NotFoundError."""
        async with self._database.transaction() as connection:
            self.get(name)
            await connection.execute(lifecycle_rules.delete().where(lifecycle_rules.c.name == name))
        del self._rules[name]

    async def try_out(self, name: str) -> Run:
        """What a run would do now: it does nothing. Raises NotFoundError, QueryError."""
        known = self.get(name)
        found = await self._found(known.rule)
        await self._change(name, tried=known.version)
        return found

    async def run(self, name: str) -> Run:
        """Do now what a rule says. Raises NotFoundError, ConflictError unless it is enabled, QueryError."""
        if not self.get(name).enabled:
            raise ConflictError(f"rule {name} is not enabled")
        async with self._running:
            known = self.get(name)
            found = await self._found(known.rule)
            done, problem = [], found.problem
            for device in found.devices if not problem else ():
                if (wrong := await self._apply(known, device)) is not None:
                    problem = problem or wrong
                else:
                    done.append(device)
            if found.problem:
                act = Act(f"rule:{name}", "lifecycle.run", Via.RULE, targets=(("rule", name),))
                await self._audit.add(act, Result(Outcome.FAILED, "too_many", found.problem))
            if name in self._rules:
                await self._change(name, ran=self._expires_by(), problem=problem[:_MAX_TEXT])
        return Run(done, problem)

    async def _found(self, rule: Rule) -> Run:
        wanted, after, now = list[str](), "", self._expires_by()
        while len(wanted) <= rule.most and (names := await self._inventory.find(rule.when, after, _PAGE, now=now)):
            wanted += [name for name in names if self._is_left(name, rule.then)]
            after = names[-1]
        if len(wanted) > rule.most:
            return Run(wanted[: rule.most], f"it finds more than {rule.most} devices, and does nothing: see `most`")
        return Run(wanted)

    def _is_left(self, device: str, then: Then) -> bool:
        """Whether there is something to do: it may be what it is to become."""
        member = self._registry.find(Kind.DEVICE, device)
        if member is None:
            return False
        ended = {Then.SUSPEND: {State.SUSPENDED, State.RETIRED}, Then.RETIRE: {State.RETIRED}, Then.DELETE: set()}
        return member.state not in ended[then]

    async def _apply(self, known: Kept, device: str) -> str | None:
        """Do to a device what the rule says; what was wrong, None: nothing."""
        rule, action = known.rule, _ACTIONS[known.rule.then]
        facts = {"rule": known.name, "version": known.version, "telemetry": rule.telemetry.value}
        act = Act(f"rule:{known.name}", action, Via.RULE, targets=(("device", device),), facts=facts)
        try:
            async with acting(self._audit, act) as noted:
                noted.before = {"state": self._registry.get(Kind.DEVICE, device).state.value}
                noted.after = await self._do(rule, device)
        except FAILURES:
            raise
        except (FleetError, IngestError) as error:
            log.warning("rule not applied", rule=known.name, device=device, error=str(error))
            return f"{device}: {error}"
        return None

    async def _do(self, rule: Rule, device: str) -> dict[str, Any]:
        registry, after = self._registry, dict[str, Any]()
        if rule.then is Then.SUSPEND:
            return {"state": (await registry.set_state(Kind.DEVICE, device, State.SUSPENDED)).state.value}
        erases = rule.telemetry is Telemetry.ERASE
        if rule.then is Then.RETIRE:
            member, rows = await self._devices.retire(device, erase=erases)
            after = {"state": member.state.value, "certificates": "revoked"}
        else:
            rows = await self._devices.delete(device, erase=erases)
        return {**after, "erased_rows": rows} if erases else after

    async def _run_due(self) -> None:
        """Run the rules that are due. Raises what the first of those that failed did, when all had their turn."""
        failed: Exception | None = None
        for known in self.all():
            if known.enabled and _is_due(known, self._expires_by()):
                try:
                    found = await self.run(known.name)
                except Exception as error:  # noqa: BLE001 - it is raised when the others have run
                    log.warning("rule failed, it is run again later", rule=known.name, error=str(error))
                    failed = failed or error
                else:
                    log.info("rule ran", rule=known.name, devices=len(found.devices), problem=found.problem)
        if failed is not None:
            raise failed

    async def _change(self, name: str, **values: Any) -> Kept:
        async with self._database.transaction() as connection:
            kept = replace(self.get(name), **values)
            await connection.execute(self._database.upsert(lifecycle_rules), [_row(kept)])
        self._rules[name] = kept
        return kept


def _is_due(known: Kept, now: int) -> bool:
    """Whether a rule is due; also one whose last run is in the future, because the clock was set back."""
    return not 0 <= now - known.ran < known.rule.every * 1_000_000


def _read(row: Any) -> Kept:
    return Kept(
        row.name,
        from_object(json.loads(row.document)),
        row.version,
        row.tried,
        row.enabled,
        row.ran,
        row.problem,
        row.created,
        row.updated,
    )


def _row(kept: Kept) -> dict[str, Any]:
    return {
        "name": kept.name,
        "document": json.dumps(source_of(kept.rule)),
        "version": kept.version,
        "tried": kept.tried,
        "enabled": kept.enabled,
        "ran": kept.ran,
        "problem": kept.problem,
        "created": kept.created,
        "updated": kept.updated,
    }
