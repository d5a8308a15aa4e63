"""Operators as the registry has them, and who a credential stands for."""

import asyncio
import json
import secrets as random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

from fleet.errors import ConflictError, NotFoundError
from fleet.operators.model import (
    MAX_TEXT,
    OWNER,
    Caller,
    InvalidOperatorError,
    Operator,
    Role,
    Scope,
    Token,
    caller_of,
    check_operator,
    check_scope,
)
from fleet.operators.secrets import (
    MAX_PASSWORD,
    MIN_PASSWORD,
    digest_of,
    hash_password,
    is_password,
    new_token,
    parts_of,
    same,
)
from fleet.registry.database import Database
from fleet.registry.model import check_version
from fleet.registry.schema import operators, tokens
from fleet.registry.write_behind import WriteBehind
from ingester.clock import Clock, now_us
from ingester.periodic import Background

_WRITE_SECONDS = 30.0
_MAX_TOKENS = 100
_HASHING = 2
"""Passwords that are looked at at a time: each takes 64 MiB and a processor."""


class Operators:
    """An async context manager around what fleet.db has of them. `owner_token` is that of the state folder."""

    def __init__(
        self,
        database: Database,
        owner_token: Callable[[], str],
        clock: Clock = now_us,
        background: Background | None = None,
    ) -> None:
        self._database = database
        self._owner_token = owner_token
        self._clock = clock
        self._operators: dict[str, Operator] = {}
        self._tokens: dict[str, Token] = {}
        self._used: dict[str, int] = {}
        self._hashing = asyncio.Semaphore(_HASHING)
        self._nobodys = ""
        self._owner_digest = ""
        self._written = WriteBehind("tokens", self._write_used, _WRITE_SECONDS, background)
        self.changed: list[Callable[[str], None]] = []
        """Called with the name of an operator who is changed or gone."""

    async def __aenter__(self) -> Self:
        self._owner_digest = digest_of(self._owner_token())
        async with self._database.reading() as connection:
            self._operators = {row.name: _operator(row) for row in await connection.execute(operators.select())}
            self._tokens = {row.id: _token(row) for row in await connection.execute(tokens.select())}
        await self._written.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._written.__aexit__()

    def all(self) -> Sequence[Operator]:
        """All by name; who has admin.token is not among them."""
        return [self._operators[name] for name in sorted(self._operators)]

    def get(self, name: str) -> Operator:
        """One; raises NotFoundError."""
        if name not in self._operators:
            raise NotFoundError(f"no operator named {name!r}")
        return self._operators[name]

    def find(self, name: str) -> Operator | None:
        """One; None when there is none of that name."""
        return self._operators.get(name)

    def by_token(self, text: str) -> Caller | None:
        """Who a bearer token stands for; None for one that does not hold."""
        if same(digest_of(text), self._owner_digest):
            return Caller(OWNER, "admin.token", Role.ADMIN)
        if (found := parts_of(text)) is None:
            return None
        token = self._tokens.get(found[0])
        # a token that is not there takes as long as one that is
        if not same(digest_of(found[1]), token.digest if token else self._owner_digest) or token is None:
            return None
        operator = self._operators.get(token.operator)
        now = self._clock()
        if operator is None or operator.disabled or (token.expires is not None and token.expires <= now):
            return None
        self._used[token.id] = now
        return caller_of(operator, f"token {token.id}", token)

    async def by_password(self, name: str, password: str) -> Operator | None:
        """Who a name and a password stand for; None when they do not hold. Takes equally long for everybody."""
        operator = self._operators.get(name)
        kept = operator.password if operator is not None else ""
        async with self._hashing:
            if not self._nobodys:
                self._nobodys = await asyncio.to_thread(hash_password, random.token_urlsafe())
            holds = await asyncio.to_thread(is_password, password, kept or self._nobodys)
        operator = self._operators.get(name)  # it may have changed meanwhile
        if not holds or not kept or operator is None or operator.disabled or operator.password != kept:
            return None
        return operator

    async def put(self, wanted: Operator, expected: int | None = None) -> Operator:
        """Make an operator, or change it; its password stays. Raises InvalidOperatorError, StaleError."""
        check_operator(wanted)
        async with self._database.transaction() as connection:
            known = self._operators.get(wanted.name)
            version = check_version(f"operator {wanted.name}", known.version if known else 0, expected)
            now = self._clock()
            kept = replace(
                wanted,
                password=known.password if known else "",
                version=version,
                created=known.created if known else now,
                updated=now,
            )
            await connection.execute(self._database.upsert(operators), [_operator_row(kept)])
        return self._keep(kept)

    async def set_password(self, name: str, password: str) -> None:
        """Give an operator a password; empty: none. Raises NotFoundError, InvalidOperatorError."""
        if password and not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise InvalidOperatorError(f"password: it has {MIN_PASSWORD} to {MAX_PASSWORD} characters")
        if self.get(name).external and password:
            raise InvalidOperatorError(f"password: {name} logs in where OpenID Connect says")
        async with self._hashing:
            hashed = await asyncio.to_thread(hash_password, password) if password else ""
        async with self._database.transaction() as connection:
            known = self.get(name)
            kept = replace(known, password=hashed, version=known.version + 1, updated=self._clock())
            await connection.execute(self._database.upsert(operators), [_operator_row(kept)])
        self._keep(kept)

    async def delete(self, name: str) -> None:
        """Take an operator away, and its tokens. Raises NotFoundError."""
        async with self._database.transaction() as connection:
            self.get(name)
            await connection.execute(operators.delete().where(operators.c.name == name))
            await connection.execute(tokens.delete().where(tokens.c.operator == name))
        del self._operators[name]
        self._tokens = {token.id: token for token in self._tokens.values() if token.operator != name}
        self._tell(name)

    def tokens(self, operator: str | None = None) -> list[Token]:
        """Tokens of an operator, or of all, the oldest first."""
        found = [token for token in self._tokens.values() if operator is None or token.operator == operator]
        return [
            replace(token, last_used=self._used.get(token.id, token.last_used))
            for token in sorted(found, key=lambda token: (token.created, token.id))
        ]

    def token(self, found: str) -> Token:
        """One token; raises NotFoundError."""
        if found not in self._tokens:
            raise NotFoundError(f"no token {found[:80]!r}")
        known = self._tokens[found]
        return replace(known, last_used=self._used.get(found, known.last_used))

    async def add_token(
        self, operator: str, role: Role, scope: Scope, description: str, expires: int | None
    ) -> tuple[Token, str]:
        """Make a token; its text is told this once. Raises NotFoundError, InvalidOperatorError, ConflictError."""
        check_scope(scope)
        if len(description) > MAX_TEXT:
            raise InvalidOperatorError(f"description: more than {MAX_TEXT} characters")
        now = self._clock()
        if expires is not None and expires <= now:
            raise InvalidOperatorError("expires: that is over already")
        found, digest, text = new_token()
        async with self._database.transaction() as connection:
            self.get(operator)
            if len(self.tokens(operator)) >= _MAX_TOKENS:
                raise ConflictError(f"{operator} has {_MAX_TOKENS} tokens already: revoke one")
            made = Token(found, operator, role, digest, scope, description, expires, now)
            await connection.execute(tokens.insert(), [_token_row(made)])
        self._tokens[found] = made
        return made, text

    async def revoke_token(self, found: str) -> Token:
        """Let a token count no more. Raises NotFoundError."""
        async with self._database.transaction() as connection:
            known = self.token(found)
            await connection.execute(tokens.delete().where(tokens.c.id == found))
        del self._tokens[found]
        self._used.pop(found, None)
        return known

    def _keep(self, operator: Operator) -> Operator:
        self._operators[operator.name] = operator
        self._tell(operator.name)
        return operator

    def _tell(self, name: str) -> None:
        for changed in self.changed:
            changed(name)

    async def _write_used(self) -> None:
        used = {found: at for found, at in self._used.items() if found in self._tokens}
        if used:
            async with self._database.transaction() as connection:
                for found, at in used.items():
                    await connection.execute(tokens.update().where(tokens.c.id == found).values(last_used=at))
        for found, at in used.items():
            if found in self._tokens:
                self._tokens[found] = replace(self._tokens[found], last_used=at)
            if self._used.get(found) == at:
                del self._used[found]


def _scope(row: Any) -> Scope:
    return Scope(tuple(json.loads(row.groups)), tuple(json.loads(row.sites)))


def _operator(row: Any) -> Operator:
    return Operator(
        row.name,
        Role(row.role),
        _scope(row),
        row.description,
        row.password,
        row.disabled,
        row.external,
        row.version,
        row.created,
        row.updated,
    )


def _operator_row(operator: Operator) -> dict[str, Any]:
    return {
        "name": operator.name,
        "role": operator.role.value,
        **_scope_columns(operator.scope),
        "description": operator.description,
        "password": operator.password,
        "disabled": operator.disabled,
        "external": operator.external,
        "version": operator.version,
        "created": operator.created,
        "updated": operator.updated,
    }


def _scope_columns(scope: Scope) -> dict[str, str]:
    return {"groups": json.dumps(scope.groups), "sites": json.dumps(scope.sites)}


def _token(row: Any) -> Token:
    return Token(
        row.id,
        row.operator,
        Role(row.role),
        row.digest,
        _scope(row),
        row.description,
        row.expires,
        row.created,
        row.last_used,
    )


def _token_row(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "operator": token.operator,
        "role": token.role.value,
        **_scope_columns(token.scope),
        "digest": token.digest,
        "description": token.description,
        "expires": token.expires,
        "created": token.created,
        "last_used": token.last_used,
    }
