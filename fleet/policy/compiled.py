"""Policies of one connection, compiled: what holds for it, and the decisions it has made so far. Pure.

Explicit deny wins, nothing means no. Conditions are judged once, for what they ask for stays as it is while a
connection lasts, but for the time: `until` says when to compile anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fleet.errors import FleetError
from fleet.policy.condition import TIME
from fleet.policy.document import Action, Document, Effect, Statement
from fleet.policy.pattern import Pattern, Template, Variable, Wild, text_of, usable, variables
from fleet.registry.details import Value

ALLOWED = "allowed"
EXPLICIT_DENY = "explicit_deny"
NOT_ALLOWED = "not_allowed"

_REMEMBERED = 250
_REMEMBERED_LENGTH = 256
"""So much of one connection and action; who asks for ever new and long topics has them decided again."""


class UndecidedError(FleetError):
    """It depends on what is not known here."""


@dataclass(frozen=True, slots=True)
class Attached:
    """One version of a policy, as it counts for a device."""

    policy: str
    version: int
    document: Document


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an action is allowed, why (ALLOWED, EXPLICIT_DENY, NOT_ALLOWED), and the statement that decided."""

    allowed: bool
    reason: str
    policy: str | None = None
    version: int | None = None
    statement: str | None = None


_NOTHING = Decision(False, NOT_ALLOWED)
_TOPICS = frozenset({Action.PUBLISH, Action.RETAIN, Action.RECEIVE})


class Rule:
    """One statement, with the decision that it makes."""

    __slots__ = ("decision", "is_deny", "resources", "statement")

    def __init__(self, attached: Attached, statement: Statement) -> None:
        self.statement = statement
        self.is_deny = statement.effect is Effect.DENY
        reason = EXPLICIT_DENY if self.is_deny else ALLOWED
        self.decision = Decision(not self.is_deny, reason, attached.policy, attached.version, statement.name)
        self.resources = tuple(map(_Resource, statement.resources))

    def match(self, resource: str, values: Mapping[str, Value], unknown: frozenset[str]) -> bool | None:
        """Whether it is about this; None: that depends on what is not known."""
        found: bool | None = False
        for one in self.resources:
            if not resource.startswith(one.prefix):
                continue  # most are about something else: nothing has to be bound
            is_open = not one.needs.isdisjoint(unknown)
            usable_all = not is_open and all(usable(values.get(name)) for name in one.needs)
            # A value that can't be used must not take a denial away: anything may stand there.
            if not self.is_deny and not is_open and not usable_all:
                continue
            if one.matches(resource, values, usable_all=usable_all, dollar=self.is_deny):
                if not is_open:
                    return True
                found = None
        return found


class _Resource:
    """One resource of a statement. Most are text and variables, with nothing wild but a star at their end."""

    __slots__ = ("_ends_wild", "_is_plain", "_template", "needs", "prefix")

    def __init__(self, template: Template) -> None:
        self._template = template
        self.needs = frozenset(variables(template))
        self.prefix = template[0] if isinstance(template[0], str) else ""
        """What it begins with."""
        self._ends_wild = template[-1] is Wild.STAR
        self._is_plain = not any(isinstance(part, Wild) for part in template[: -1 if self._ends_wild else None])

    def matches(self, resource: str, values: Mapping[str, Value], *, usable_all: bool, dollar: bool) -> bool:
        if not self._is_plain or not usable_all or not (self.prefix or dollar):
            return Pattern(self._template, values, otherwise=Wild.STAR).matches(resource, dollar=dollar)
        text = self.prefix
        for part in self._template[1:] if self.prefix else self._template:
            if isinstance(part, str):
                text += part
            elif isinstance(part, Variable):
                text += text_of(values[part.name])
        return resource.startswith(text) if self._ends_wild else resource == text


class Program:
    """Policies of all devices that have the same ones attached. `needs`: variables and keys that they ask for."""

    __slots__ = ("needs", "rules", "timed")

    def __init__(self, attached: Sequence[Attached]) -> None:
        rules = [Rule(one, statement) for one in attached for statement in one.document.statements]
        self.rules = {action: tuple(rule for rule in rules if action in rule.statement.actions) for action in Action}
        self.needs = frozenset[str]().union(*(one.document.needs() for one in attached))
        self.timed = TIME in self.needs


Seen = Callable[["Compiled", Action, str, Decision], None]
"""Told of a decision that is made for the first time, and of one against somebody each time."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and by which connection: what decisions are kept with. Empty: not known."""

    device: str
    client_id: str = ""
    address: str = ""
    tls: str = ""
    listener: str = ""
    fingerprint: str = ""


class Compiled:
    """Rights of one connection; see the engine's Rights.

    `values` has what `program.needs`; keys in `unknown` are not known, and count in favour: for who is not connected,
    what may be permitted at the next connection is not taken away before it.
    """

    __slots__ = ("_known", "_live", "_seen", "_values", "caller", "program", "unknown")

    def __init__(
        self,
        program: Program,
        values: Mapping[str, Value],
        caller: Caller,
        *,
        unknown: frozenset[str] = frozenset(),
        seen: Seen | None = None,
    ) -> None:
        self.program = program
        self.caller = caller
        self.unknown = unknown & program.needs
        self._values = values
        self._seen = seen
        self._live: dict[Rule, bool | None] | None = None
        self._known: dict[Action, dict[str, Decision]] | None = None

    def until(self, now: int) -> int | None:
        """When the time alone may change a decision, microseconds since 1970-01-01 UTC; None: never."""
        if not self.program.timed:
            return None
        rules = {rule for found in self.program.rules.values() for rule in found}
        conditions = (condition for rule in rules for condition in rule.statement.conditions)
        return min((at for condition in conditions if (at := condition.changes(now)) is not None), default=None)

    def may_connect(self, client_id: str) -> bool:
        """Whether this client id may be used. Asked once, and not remembered."""
        decided = self._decide(Action.CONNECT, client_id)
        if self._seen is not None:
            self._seen(self, Action.CONNECT, client_id, decided)
        return decided.allowed

    def may_publish(self, topic: str) -> bool:
        """Whether a message may be published to this topic name."""
        return self._may(Action.PUBLISH, topic)

    def may_retain(self, topic: str) -> bool:
        """Whether such a message may be retained."""
        return self._may(Action.RETAIN, topic)

    def may_receive(self, topic: str) -> bool:
        """Whether a message of this topic name may be delivered."""
        return self._may(Action.RECEIVE, topic)

    def may_subscribe(self, requested: str) -> bool:
        """Whether this filter may be subscribed to; what it then brings is for `may_receive`."""
        return self._may(Action.SUBSCRIBE, requested)

    def decide(self, action: Action, resource: str) -> Decision:
        """Decide, with the statement that did."""
        known = self._decisions(action)
        found = known.get(resource)
        if found is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            found = self._decide(action, resource)
            if len(resource) <= _REMEMBERED_LENGTH:
                known[resource] = found
        return found

    def explain(self, action: Action, resource: str) -> Decision:
        """As `decide`; raises UndecidedError where the answer depends on what is unknown."""
        if _is_no_topic(action, resource):
            return _NOTHING
        matched = [(rule, self._match(rule, resource)) for rule in self.program.rules[action]]
        for is_deny in (True, False):
            found = [(rule, match) for rule, match in matched if rule.is_deny is is_deny]
            for rule, match in found:
                if match:
                    return rule.decision
            for rule, match in found:
                if match is None:
                    raise UndecidedError(self._undecided(rule))
        return _NOTHING

    def _undecided(self, rule: Rule) -> str:
        names = ", ".join(sorted(self.unknown.intersection(rule.statement.needs())))
        by = rule.decision
        return (
            f"it depends on {names}, which is not known:"
            f" {by.statement} of policy {by.policy}, version {by.version}, asks for it"
        )

    def _may(self, action: Action, resource: str) -> bool:
        known = self._known
        decisions = known.get(action) if known is not None else None
        found = decisions.get(resource) if decisions is not None else None
        if found is not None and found.allowed:
            return True
        decided = found or self.decide(action, resource)
        if self._seen is not None:
            self._seen(self, action, resource, decided)
        return decided.allowed

    def _decide(self, action: Action, resource: str) -> Decision:
        if _is_no_topic(action, resource):
            return _NOTHING
        allowed: Decision | None = None
        for rule in self.program.rules[action]:
            if rule.is_deny or allowed is None:
                match = self._match(rule, resource)
                if match and rule.is_deny:
                    return rule.decision
                if match is not False and not rule.is_deny:
                    allowed = rule.decision
        return allowed or _NOTHING

    def _match(self, rule: Rule, resource: str) -> bool | None:
        """Whether a statement counts here and is about this; None: that depends on what is not known."""
        holds = self._holds(rule) if rule.statement.conditions else True
        if holds is False:
            return False
        found = rule.match(resource, self._values, self.unknown)
        return None if found and holds is None else found

    def _holds(self, rule: Rule) -> bool | None:
        """Whether its conditions do: judged when it is asked first, and once."""
        if self._live is None:
            self._live = {}
        if rule not in self._live:
            answers = [condition.holds(self._values, self.unknown) for condition in rule.statement.conditions]
            self._live[rule] = False if False in answers else None if None in answers else True
        return self._live[rule]

    def _decisions(self, action: Action) -> dict[str, Decision]:
        if self._known is None:
            self._known = {}
        return self._known.setdefault(action, {})


def _is_no_topic(action: Action, resource: str) -> bool:
    """A topic name has no wildcards [MQTT-3.3.2-2]."""
    return action in _TOPICS and ("+" in resource or "#" in resource)
