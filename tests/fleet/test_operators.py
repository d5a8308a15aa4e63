"""Operators, their tokens and passwords, and who guesses at them."""

from contextlib import asynccontextmanager

import pytest

from fleet.errors import ConflictError, FleetError, NotFoundError, StaleError
from fleet.operators.guessing import Guessing
from fleet.operators.model import Caller, InvalidOperatorError, Operator, Role, Scope, query_of
from fleet.operators.secrets import PREFIX, hash_password, is_password, parts_of
from fleet.operators.service import Operators
from fleet.operators.sessions import SECONDS, Sessions
from fleet.registry import Registry
from fleet.registry.details import InvalidDetailsError
from fleet.registry.query.model import And, Or

T = 1_795_392_000_000_000
OWNER = "owner-token"


@pytest.fixture
def opened(tmp_path):
    @asynccontextmanager
    async def opening(clock=lambda: T):
        async with (
            Registry(tmp_path / "fleet.db") as registry,
            Operators(registry.database, lambda: OWNER, clock) as of,
        ):
            yield of

    return opening


async def test_a_token_is_its_operators(opened, both_databases):
    """As long as both are there; over starts; with what it may at most. Who has admin.token is admin."""
    async with opened() as operators:
        assert operators.by_token(OWNER) == Caller("admin", "admin.token", Role.ADMIN)
        await operators.put(Operator("anna", Role.OPERATOR, Scope(sites=("hall",)), "Anna"))
        made, text = await operators.add_token("anna", Role.VIEWER, Scope(("pumps",)), "a script", T + 10)
        assert text.startswith(f"{PREFIX}{made.id}_")
        assert text.removeprefix(f"{PREFIX}{made.id}_") not in repr(operators.tokens())
        with pytest.raises(InvalidOperatorError, match="over already"):
            await operators.add_token("anna", Role.VIEWER, Scope(), "", T)
    async with opened() as operators:
        caller = operators.by_token(text)
        scopes = (Scope(sites=("hall",)), Scope(("pumps",)))
        assert caller == Caller("anna", f"token {made.id}", Role.VIEWER, scopes, T + 10)
        assert operators.token(made.id).last_used == T
        for wrong in ("", "x", PREFIX, f"{PREFIX}{made.id}", f"{text}x", text[:-1], text.replace(made.id, "0" * 12)):
            assert operators.by_token(wrong) is None
        await operators.put(Operator("anna", Role.VIEWER, disabled=True))
        assert operators.by_token(text) is None
        await operators.put(Operator("anna", Role.VIEWER))
        assert operators.by_token(text).scopes[0].whole
    async with opened(lambda: T + 9) as operators:
        assert [(token.id, token.last_used) for token in operators.tokens("anna")] == [(made.id, T)]
        assert operators.by_token(text) is not None
    async with opened(lambda: T + 10) as operators:
        assert operators.by_token(text) is None
        await operators.revoke_token(made.id)
        with pytest.raises(NotFoundError):
            await operators.revoke_token(made.id)
        _again, other = await operators.add_token("anna", Role.VIEWER, Scope(), "", None)
        await operators.delete("anna")
        assert operators.by_token(other) is None
        assert operators.all() == operators.tokens() == []
    async with opened() as operators:
        assert operators.by_token(other) is None


async def test_a_token_may_no_more_than_its_operator(opened):
    """Whatever it was made for."""
    async with opened() as operators:
        await operators.put(Operator("anna", Role.ADMIN))
        _made, text = await operators.add_token("anna", Role.ADMIN, Scope(), "", None)
        await operators.put(Operator("anna", Role.VIEWER))
        assert operators.by_token(text).role is Role.VIEWER


async def test_passwords(opened):
    """Hold or not; nobody has one until it is given; it outlives other changes."""
    async with opened() as operators:
        await operators.put(Operator("anna", Role.VIEWER))
        assert await operators.by_password("anna", "") is None
        await operators.set_password("anna", "correct horse")
        await operators.put(Operator("anna", Role.ADMIN, password="x"))
        assert "correct" not in operators.get("anna").password
    async with opened() as operators:
        assert (await operators.by_password("anna", "correct horse")).role is Role.ADMIN
        for name, password in (("anna", "correct hors"), ("nobody", "correct horse"), ("anna", "")):
            assert await operators.by_password(name, password) is None
        for bad in ("short", "x" * 1025):
            with pytest.raises(InvalidOperatorError, match="12 to 1024"):
                await operators.set_password("anna", bad)
        await operators.set_password("anna", "another horse")
        assert await operators.by_password("anna", "correct horse") is None
        await operators.set_password("anna", "")
        assert await operators.by_password("anna", "another horse") is None
        await operators.put(Operator("bert", Role.VIEWER, external=True))
        with pytest.raises(InvalidOperatorError, match="OpenID"):
            await operators.set_password("bert", "correct horse")


def test_a_password_is_kept_as_a_hash():
    """Another one each time."""
    one, other = hash_password("correct horse"), hash_password("correct horse")
    assert one != other
    assert is_password("correct horse", one)
    assert not is_password("correct house", one)
    assert parts_of("x") is parts_of("fgt_abc") is None


@pytest.mark.parametrize(
    ("operator", "detail"),
    [
        (Operator("", Role.VIEWER), "name"),
        (Operator("a/b", Role.VIEWER), "name"),
        (Operator("admin", Role.VIEWER), "admin.token"),
        (Operator("a", Role.VIEWER, description="x" * 1025), "description"),
        (Operator("a", Role.VIEWER, Scope(tuple(map(str, range(101))))), "101 are more than 100"),
        (Operator("a", Role.VIEWER, Scope(sites=("a b",))), "sites"),
    ],
)
async def test_who_can_not_be_one(opened, operator: Operator, detail: str):
    """Is said, and what is wrong."""
    async with opened() as operators:
        with pytest.raises((ConflictError, InvalidOperatorError, InvalidDetailsError), match=detail):
            await operators.put(operator)
        with pytest.raises(NotFoundError):
            await operators.add_token("nobody", Role.VIEWER, Scope(), "", None)


async def test_limits_and_versions(opened):
    """A change of what was seen; a hundred tokens; a long description."""
    async with opened() as operators:
        assert (await operators.put(Operator("anna", Role.VIEWER), 0)).version == 1
        with pytest.raises(StaleError):
            await operators.put(Operator("anna", Role.VIEWER), 0)
        with pytest.raises(FleetError, match="description"):
            await operators.add_token("anna", Role.VIEWER, Scope(), "x" * 1025, None)
        for _ in range(100):
            await operators.add_token("anna", Role.VIEWER, Scope(), "", None)
        with pytest.raises(ConflictError, match="100 tokens"):
            await operators.add_token("anna", Role.VIEWER, Scope(), "", None)
        with pytest.raises(NotFoundError):
            operators.token("nothing")


def test_roles_and_scopes():
    """Each role covers those before; what is in all scopes; a group that is gone has nobody."""
    assert Role.ADMIN.covers(Role.VIEWER)
    assert Role.OPERATOR.covers(Role.OPERATOR)
    assert not Role.VIEWER.covers(Role.OPERATOR)
    assert query_of([Scope(), Scope()], []) == And(())
    (part,) = query_of([Scope(("gone",))], ["other"]).parts
    assert part == Or(())
    (part,) = query_of([Scope(("a",), ("b",))], ["a"]).parts
    assert [(term.field, term.value) for term in part.parts] == [("group", "a"), ("site", "b")]
    assert str(Scope(("a",), ("b",))) == "group a, site b"
    assert str(Scope()) == "the whole fleet"


def test_guessing():
    """So often in a window, each for itself; then wait until it ends."""
    now = [0.0]
    guessing = Guessing(lambda: now[0], 3, 60)
    assert [guessing.failed("a") for _ in range(2)] == [1, 2]
    assert guessing.wait_seconds("a") == 0
    now[0] = 10
    guessing.failed("a")
    assert guessing.wait_seconds("a") == 50
    assert guessing.wait_seconds("b") == 0
    now[0] = 60
    assert (guessing.wait_seconds("a"), guessing.failures("a")) == (0, 0)
    assert guessing.failed("a") == 1
    assert [guessing.failed("b", what) for what in ("x", "x", "y", "x", "z", "z")] == [1, 1, 2, 2, 3, 3]
    for number in range(10_001):
        guessing.failed(str(number))
    assert guessing.failures("a") == 0


async def test_sessions(opened):
    """Count for a time, while they are used, and until the operator is changed."""
    now = [0.0]
    async with opened() as operators:
        await operators.put(Operator("anna", Role.OPERATOR))
        sessions = Sessions(operators, lambda: now[0])
        secret, session = sessions.begin("anna")
        assert sessions.find(secret)[0] == Caller("anna", "session", Role.OPERATOR, (Scope(),))
        assert sessions.find("other") is None
        assert sessions.holds(session, session.csrf)
        assert not sessions.holds(session, "")
        for now[0] in range(3000, SECONDS, 3000):
            assert sessions.find(secret) is not None
        now[0] = SECONDS
        assert sessions.find(secret) is None
        secret, _ = sessions.begin("anna")
        now[0] += 3600
        assert sessions.find(secret) is None
        secret, _ = sessions.begin("anna")
        sessions.end(secret)
        assert sessions.find(secret) is None
        secret, _ = sessions.begin("anna")
        await operators.put(Operator("anna", Role.VIEWER))
        assert sessions.find(secret) is None
        first, _ = sessions.begin("anna")
        for _ in range(1000):
            now[0] += 1
            last, _ = sessions.begin("anna")
        assert sessions.find(first) is None
        assert sessions.find(last) is not None
