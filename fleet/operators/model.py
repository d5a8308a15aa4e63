"""Operators, their tokens, and whoever calls: which role, and which part of the fleet. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from fleet.errors import ConflictError, FleetError
from fleet.names import is_name
from fleet.registry.details import check_word
from fleet.registry.query.model import And, Op, Or, Query, Term

OWNER = "admin"
"""Whoever has the state folder's admin.token: an admin of the whole fleet, whom nobody can take away."""
MAX_SCOPE = 100
MAX_TEXT = 1024


class InvalidOperatorError(FleetError):
    """An operator or a token that can't be so; the message begins with the place."""


class Role(StrEnum):
    """What an operator may do: each role all that the ones before it may."""

    VIEWER = "viewer"
    """Look at everything of the fleet, and ask questions."""
    OPERATOR = "operator"
    """Run it: devices, their certificates and groups, quotas, messages, quarantine."""
    ADMIN = "admin"
    """Say what holds in it: policies, types, templates, authorities, streams, operators, backups; read the log."""

    def covers(self, other: "Role") -> bool:
        """Whether it may do all that the other may."""
        return _ROLES.index(self) >= _ROLES.index(other)


_ROLES = tuple(Role)


@dataclass(frozen=True, slots=True)
class Scope:
    """Part of the fleet: devices of these groups, and of those below them, and devices at these sites.

    With neither it is the whole fleet.
    """

    groups: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it is the whole fleet."""
        return not self.groups and not self.sites

    def __str__(self) -> str:
        parts = [f"group {name}" for name in self.groups] + [f"site {name}" for name in self.sites]
        return ", ".join(parts) or "the whole fleet"


@dataclass(frozen=True, slots=True)
class Operator:
    """A person or program. `password` is a hash [RFC 9106], empty where there is none; times are microseconds."""

    name: str
    role: Role
    scope: Scope = Scope()
    description: str = ""
    password: str = ""
    disabled: bool = False
    external: bool = False
    """Known by the provider of OpenID Connect, which says at each login which role it has."""
    version: int = 1
    created: int = 0
    updated: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """What a program proves by that it is an operator. It may do no more than its operator, nor than it says itself.

    `digest` is SHA-256 of the secret, in hex. None: for `expires`, never; for `last_used`, not yet.
    """

    id: str
    operator: str
    role: Role
    digest: str
    scope: Scope = Scope()
    description: str = ""
    expires: int | None = None
    created: int = 0
    last_used: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for something: by which credential (`admin.token`, `token ID`, `session`), with which role, and in
    which parts of the fleet: only in what is in all of the scopes.
    """

    name: str
    credential: str
    role: Role
    scopes: tuple[Scope, ...] = ()
    expires: int | None = None
    """When the credential ends, in microseconds; None: never, or with a session."""

    @property
    def whole(self) -> bool:
        """Whether it is one of the whole fleet."""
        return all(scope.whole for scope in self.scopes)


def caller_of(operator: Operator, credential: str, token: Token | None = None) -> Caller:
    """Who an operator is, with a token at most what both may."""
    if token is None:
        return Caller(operator.name, credential, operator.role, (operator.scope,))
    role = token.role if operator.role.covers(token.role) else operator.role
    return Caller(operator.name, credential, role, (operator.scope, token.scope), token.expires)


def query_of(scopes: Collection[Scope], groups: Collection[str]) -> Query:
    """The fleet query for what is in all of the scopes. In a group that is not among `groups` is nobody."""
    return And(tuple(_one(scope, groups) for scope in scopes if not scope.whole))


def check_operator(operator: Operator) -> Operator:
    """Return an operator; raises InvalidOperatorError, and ConflictError for a name that is taken for good."""
    if not is_name(operator.name):
        raise InvalidOperatorError(f"name: {operator.name[:80]!r} is not of the characters of a device's name")
    if operator.name == OWNER:
        raise ConflictError(f"name: {OWNER} is who has admin.token")
    if len(operator.description) > MAX_TEXT:
        raise InvalidOperatorError(f"description: more than {MAX_TEXT} characters")
    check_scope(operator.scope)
    return operator


def check_scope(scope: Scope) -> Scope:
    """Return a scope; raises InvalidDetailsError, InvalidOperatorError."""
    for place, names in (("groups", scope.groups), ("sites", scope.sites)):
        if len(names) > MAX_SCOPE:
            raise InvalidOperatorError(f"{place}: {len(names)} are more than {MAX_SCOPE}")
        for name in names:
            check_word(place, name)
    return scope


def _one(scope: Scope, groups: Collection[str]) -> Query:
    parts = [Term("group", Op.IS, name, quoted=True, column=1) for name in scope.groups if name in groups]
    return Or((*parts, *(Term("site", Op.IS, name, quoted=True, column=1) for name in scope.sites)))
