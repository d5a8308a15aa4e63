"""Policies of one connection, compiled: what holds for it, and the decisions it has made so far. Pure.

Explicit deny wins, nothing means no. Conditions are judged once, for what they ask for stays as it is while a
connection lasts, but for the time: `until` says when to compile anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fleet.errors import FleetError
from fleet.policy.condition import TIME
from fleet.policy.document import Action, Document, Effect, Statement
from fleet.policy.pattern import Pattern, Wild, usable, variables
from fleet.registry.details import Value

ALLOWED = "allowed"
EXPLICIT_DENY = "explicit_deny"
NOT_ALLOWED = "not_allowed"

_REMEMBERED = 1000
_REMEMBERED_LENGTH = 1024


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


class Program:
    """Policies of all devices that have the same ones attached. `needs`: variables and keys that they ask for."""

    __slots__ = ("attached", "entries", "needs", "timed")

    def __init__(self, attached: Sequence[Attached]) -> None:
        self.attached = tuple(attached)
        self.entries = tuple((one, statement) for one in self.attached for statement in one.document.statements)
        self.needs = frozenset[str]().union(*(one.document.needs() for one in self.attached))
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

    __slots__ = ("_known", "_live", "_matchers", "_seen", "_values", "caller", "program", "unknown")

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
        self._live: tuple[tuple[Attached, Statement, bool], ...] | None = None
        self._matchers: dict[Action, list[_Matcher]] | None = None
        self._known: dict[Action, dict[str, Decision]] | None = None

    def until(self, now: int) -> int | None:
        """When the time alone may change a decision, microseconds since 1970-01-01 UTC; None: never."""
        if not self.program.timed:
            return None
        conditions = (condition for _, statement in self.program.entries for condition in statement.conditions)
        return min((at for condition in conditions if (at := condition.changes(now)) is not None), default=None)

    def may_connect(self, client_id: str) -> bool:
        """Whether this client id may be used."""
        return self._may(Action.CONNECT, client_id)

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
        matched = [(matcher, matcher.match(resource)) for matcher in self._matchers_of(action)]
        for is_deny in (True, False):
            found = [(matcher, match) for matcher, match in matched if matcher.is_deny is is_deny]
            for matcher, match in found:
                if match:
                    return matcher.decision
            for matcher, match in found:
                if match is None:
                    raise UndecidedError(self._undecided(matcher))
        return _NOTHING

    def _undecided(self, matcher: "_Matcher") -> str:
        names = ", ".join(sorted(self.unknown.intersection(matcher.statement.needs())))
        by = matcher.decision
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
        for matcher in self._matchers_of(action):
            if matcher.is_deny or allowed is None:
                match = matcher.match(resource)
                if match and matcher.is_deny:
                    return matcher.decision
                if match is not False and not matcher.is_deny:
                    allowed = matcher.decision
        return allowed or _NOTHING

    def _decisions(self, action: Action) -> dict[str, Decision]:
        if self._known is None:
            self._known = {}
        return self._known.setdefault(action, {})

    def _matchers_of(self, action: Action) -> "list[_Matcher]":
        """Made when they are needed first: most connections ask for few actions."""
        if self._matchers is None:
            self._matchers = {}
        found = self._matchers.get(action)
        if found is None:
            if self._live is None:
                self._live = tuple(self._statements())
            found = self._matchers[action] = [
                _Matcher(attached, statement, self._values, self.unknown, maybe=maybe)
                for attached, statement, maybe in self._live
                if action in statement.actions
            ]
        return found

    def _statements(self) -> "list[tuple[Attached, Statement, bool]]":
        """Those whose conditions hold, or may."""
        found = []
        for attached, statement in self.program.entries:
            answers = [condition.holds(self._values, self.unknown) for condition in statement.conditions]
            if False not in answers:
                found.append((attached, statement, None in answers))
        return found


def _is_no_topic(action: Action, resource: str) -> bool:
    """A topic name has no wildcards [MQTT-3.3.2-2]."""
    return action in _TOPICS and ("+" in resource or "#" in resource)


class _Matcher:
    """One statement, bound."""

    __slots__ = ("_maybe", "_patterns", "decision", "is_deny", "statement")

    def __init__(
        self,
        attached: Attached,
        statement: Statement,
        values: Mapping[str, Value],
        unknown: frozenset[str],
        *,
        maybe: bool,
    ) -> None:
        self.statement = statement
        self.is_deny = statement.effect is Effect.DENY
        reason = EXPLICIT_DENY if self.is_deny else ALLOWED
        self.decision = Decision(not self.is_deny, reason, attached.policy, attached.version, statement.name)
        self._maybe = maybe
        self._patterns: list[tuple[Pattern, bool]] = []
        for resource in statement.resources:
            needs = frozenset(variables(resource))
            is_open = not needs.isdisjoint(unknown)
            if self.is_deny or is_open or all(usable(values.get(name)) for name in needs):
                # A value that can't be used must not take a denial away: anything may stand there.
                self._patterns.append((Pattern(resource, values, otherwise=Wild.STAR), is_open))

    def match(self, resource: str) -> bool | None:
        """Whether it is about this; None: that depends on what is not known."""
        found: bool | None = False
        for pattern, is_open in self._patterns:
            if pattern.matches(resource, dollar=self.is_deny):
                if not is_open and not self._maybe:
                    return True
                found = None
        return found
