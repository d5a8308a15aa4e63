"""Policy documents: a list of statements, each of which allows or denies actions on resources. Pure.

The shape and the meaning are those of AWS IoT Core's policies, version 2012-10-17, with topics for resources: a filter
of a SUBSCRIBE is text like any other, so `+` and `#` in it are matched literally.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from fleet.policy.condition import TIME, Condition, read_conditions
from fleet.policy.pattern import PolicyError, Template, parse, variables

VERSION = "2012-10-17"
MAX_STATEMENTS = 200
MAX_RESOURCES = 200
_SID = 128
_FIELDS = ("Version", "Statement")
_STATEMENT_FIELDS = ("Sid", "Effect", "Action", "Resource", "Condition")


class Action(StrEnum):
    """What a device may be allowed to do; the resource of CONNECT is the client id, of the others topic or filter."""

    CONNECT = "connect"
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    RECEIVE = "receive"
    RETAIN = "retain"


class Effect(StrEnum):
    """What a statement does."""

    ALLOW = "Allow"
    DENY = "Deny"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. `name` is its Sid, else its place: Statement[0] is the first."""

    name: str
    effect: Effect
    actions: frozenset[Action]
    resources: tuple[Template, ...]
    conditions: tuple[Condition, ...] = ()

    def needs(self) -> Iterator[str]:
        """Yield the variables and keys that it asks for."""
        for resource in self.resources:
            yield from variables(resource)
        for condition in self.conditions:
            yield from condition.needs()


@dataclass(frozen=True, slots=True)
class Document:
    """All statements of one version of a policy."""

    statements: tuple[Statement, ...]

    def needs(self) -> frozenset[str]:
        """The variables and keys that its statements ask for."""
        return frozenset(name for statement in self.statements for name in statement.needs())


def read(given: object) -> Document:
    """Read a document as JSON gives it. Raises PolicyError that names the place."""
    if not isinstance(given, Mapping):
        raise PolicyError("policy: an object with Version and Statement is wanted")
    _only(given, _FIELDS, "policy")
    if given.get("Version", VERSION) != VERSION:
        raise PolicyError(f'Version: {str(given["Version"])[:40]!r} is not known, "{VERSION}" is')
    statements = given.get("Statement")
    if isinstance(statements, Mapping):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise PolicyError("Statement: at least one is needed")
    if len(statements) > MAX_STATEMENTS:
        raise PolicyError(f"Statement: {len(statements)} of them, the limit is {MAX_STATEMENTS}")
    found = tuple(_statement(one, f"Statement[{number}]") for number, one in enumerate(statements))
    names: set[str] = set()
    for number, statement in enumerate(found):
        if statement.name in names:
            raise PolicyError(f"Statement[{number}].Sid: another statement is named {statement.name!r} already")
        names.add(statement.name)
    return Document(found)


def _statement(given: object, place: str) -> Statement:
    if not isinstance(given, Mapping):
        raise PolicyError(f"{place}: an object with Effect, Action and Resource is wanted")
    _only(given, _STATEMENT_FIELDS, place)
    sid = given.get("Sid", "")
    if not isinstance(sid, str) or len(sid) > _SID or not sid.isprintable():
        raise PolicyError(f"{place}.Sid: a text of at most {_SID} printable characters is wanted")
    if given.get("Effect") not in list(Effect):
        raise PolicyError(f'{place}.Effect: {str(given.get("Effect"))[:40]!r} is neither "Allow" nor "Deny"')
    conditions = read_conditions(given.get("Condition", {}), f"{place}.Condition")
    actions = frozenset(
        action for at, name in _listed(given, "Action", place, len(Action) + 1) for action in _actions(name, at)
    )
    resources = tuple(_resource(text, at) for at, text in _listed(given, "Resource", place, MAX_RESOURCES))
    return Statement(sid or place, Effect(given["Effect"]), actions, resources, conditions)


def _resource(text: str, place: str) -> Template:
    if not text:
        raise PolicyError(f"{place}: an empty text")
    found = parse(text, place)
    if TIME in variables(found):
        raise PolicyError(f"{place}: the time is for conditions")
    return found


def _actions(name: str, place: str) -> list[Action]:
    if name == "*":
        return list(Action)
    try:
        return [Action(name.lower())]
    except ValueError:
        raise PolicyError(f"{place}: no action named {name[:80]!r}; known are {', '.join(Action)} and *") from None


def _listed(given: Mapping[object, object], field: str, place: str, most: int) -> Iterator[tuple[str, str]]:
    """Yield place and text of a field that is a text, or a list of them."""
    found = given.get(field)
    values = found if isinstance(found, list) else [found]
    if field not in given or not values:
        raise PolicyError(f"{place}.{field}: at least one is needed")
    if len(values) > most:
        raise PolicyError(f"{place}.{field}: {len(values)} of them, the limit is {most}")
    for number, value in enumerate(values):
        at = f"{place}.{field}[{number}]" if isinstance(found, list) else f"{place}.{field}"
        if not isinstance(value, str):
            raise PolicyError(f"{at}: {str(value)[:80]!r} is not a text")
        yield at, value


def _only(given: Mapping[object, object], known: tuple[str, ...], place: str) -> None:
    for name in given:
        if name not in known:
            raise PolicyError(f"{place}: unknown field {str(name)[:80]!r}; known are {', '.join(known)}")
