"""The registry in PostgreSQL: how it gets there, who owns it, and what happens while it is away."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.errors import RegistryUnavailableError, StateError, StateInUseError
from fleet.identity import Kind
from fleet.provisioning.notes import Note, read_notes, write_note
from fleet.quota.model import Quota
from fleet.quota.service import Quotas
from fleet.quota.usage import Usage
from fleet.registry import Groups, Registry, postgres
from fleet.registry.details import Details
from fleet.registry.postgres import PostgresDatabase
from fleet.registry.schema import facts, members, metadata
from ingester.ledger import Ledger
from ingester.postgres.connection import OPTIONS
from tests.fleet.test_registry import named, refusal, who

OURS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname = current_database()"
)
NOTE = Note(1, "claim", "c", "a", "accepted", "", "", "10.0.0.1")
DETAILS = Details("A", "", "hall", "näher", {"fw": "1.4", "floor": 2.5, "spare": True}, ("lab", "old"))


@pytest.fixture
def url(new_database):
    return new_database()


@pytest.fixture
def path(tmp_path):
    """Where fleet.db would be."""
    return tmp_path / "fleet.db"


async def everything(registry: Registry) -> dict[str, list]:
    """All rows of all tables but the facts."""
    async with registry.database.reading() as connection:
        return {
            table.name: [tuple(row) for row in await connection.execute(select(table).order_by(*table.primary_key))]
            for table in metadata.sorted_tables
            if table is not facts
        }


async def note(registry: Registry) -> None:
    async with registry.database.transaction() as connection:
        await write_note(connection, NOTE)


async def fill(path) -> dict[str, list]:
    """A fleet.db with something in it."""
    async with Registry(path) as registry:
        await registry.add(Kind.DEVICE, "a", CERTIFICATE, details=DETAILS)
        await registry.add(Kind.APPLICATION, "back", named("back", Kind.APPLICATION), publish=("x/+",))
        async with Usage(registry.database, Ledger()) as usage, Quotas(registry, Groups(registry), usage) as quotas:
            await quotas.put("a", Quota(messages_per_day=5))
        await note(registry)
        await note(registry)
        return await everything(registry)


CERTIFICATE = named("a")


async def test_a_registry_is_taken_over(path, url):
    """All of it, once; numbers go on; fleet.db is not used any more, and says where it went."""
    before = await fill(path)
    assert all(before[table] for table in ("members", "certificates", "attributes", "tags", "policies", "quotas"))
    for _ in range(2):
        async with Registry(PostgresDatabase(path, url)) as registry:
            assert await everything(registry) == before
            assert registry.admit(who(CERTIFICATE)).name == "a"
    async with Registry(PostgresDatabase(path, url)) as registry:
        await note(registry)
        assert len(await read_notes(registry.database, "claim", None, 10)) == 3
        await registry.revoke(Kind.DEVICE, "a")
    async with Registry(PostgresDatabase(path, url)) as registry:
        assert refusal(registry, CERTIFICATE) == "revoked"
    with pytest.raises(StateError, match=r"was moved to PostgreSQL 127.0.0.1/test_\w+: say in registry.url"):
        async with Registry(path):
            pass


async def test_a_takeover_that_was_cut_off(path, url, monkeypatch):
    """Before it is committed nothing was done; after it, fleet.db is marked the next time."""
    before = await fill(path)
    for name in ("put_in", "mark_moved"):
        with monkeypatch.context() as cut:

            def fail(*_: object) -> None:
                raise RuntimeError("cut off")

            cut.setattr(postgres, name, fail)
            with pytest.raises(RuntimeError, match="cut off"):
                async with Registry(PostgresDatabase(path, url)):
                    pass
    async with Registry(PostgresDatabase(path, url)) as registry:
        assert await everything(registry) == before
    with pytest.raises(StateError, match="was moved"):
        async with Registry(path):
            pass


async def test_there_are_two_registries(path, url, tmp_path):
    """Neither is taken silently."""
    async with Registry(PostgresDatabase(tmp_path / "none.db", url)) as registry:
        await registry.add(Kind.DEVICE, "b")
    await fill(path)
    with pytest.raises(StateError, match="has a registry, and so has PostgreSQL"):
        async with Registry(PostgresDatabase(path, url)):
            pass
    async with Registry(path) as registry:
        assert registry.get(Kind.DEVICE, "a")


async def test_a_newer_schema(path, url, postgres):
    """Is refused, with a line that says so."""
    async with Registry(PostgresDatabase(path, url)):
        pass
    postgres.ask("UPDATE fleet.alembic_version SET version_num = '9999'", url)
    with pytest.raises(StateError, match=r"PostgreSQL 127.0.0.1/test_\w+ has schema 9999.*newer"):
        async with Registry(PostgresDatabase(path, url)):
            pass


async def test_one_owner(path, url, postgres, monkeypatch):
    """A second one is refused; who was taken over from, when its connections were lost, changes nothing any more."""
    monkeypatch.setattr("fleet.registry.postgres._OWNER_SECONDS", 0.5)
    async with Registry(PostgresDatabase(path, url)) as first:
        await first.add(Kind.DEVICE, "a")
        with pytest.raises(StateInUseError, match="another fleetgate owns it"):
            async with Registry(PostgresDatabase(path, url)):
                pass
        await first.add(Kind.DEVICE, "b")
        postgres.ask(OURS, url)
        await first.add(Kind.DEVICE, "c")
        postgres.ask(OURS, url)
        async with Registry(PostgresDatabase(path, url)) as second:
            await second.add(Kind.DEVICE, "d")
            with pytest.raises(StateInUseError):
                await first.add(Kind.DEVICE, "e")
        with pytest.raises(StateInUseError, match="has taken it over"):
            await first.add(Kind.DEVICE, "e")
        assert first.find(Kind.DEVICE, "e") is None
    assert postgres.ask("SELECT string_agg(name, '' ORDER BY name) FROM fleet.members", url) == [("abcd",)]


async def test_away_and_back(path, url, postgres):
    """What is known is let in meanwhile; changes are refused with a line; then all goes on by itself."""
    async with Registry(PostgresDatabase(path, url)) as registry:
        await registry.add(Kind.DEVICE, "a", CERTIFICATE)
        postgres.stop()
        try:
            assert registry.admit(who(CERTIFICATE)).name == "a"
            for _ in range(2):
                with pytest.raises(RegistryUnavailableError, match=r"the registry, PostgreSQL 127.0.0.1/test_\w+: "):
                    await registry.revoke(Kind.DEVICE, "a")
                with pytest.raises(RegistryUnavailableError):
                    async with registry.database.reading():
                        pass
            assert registry.admit(who(CERTIFICATE)).name == "a"
            with pytest.raises(RegistryUnavailableError):
                async with Registry(PostgresDatabase(path, url)):
                    pass
        finally:
            postgres.start()
        await registry.revoke(Kind.DEVICE, "a")
        assert refusal(registry, CERTIFICATE) == "revoked"


async def test_it_hangs(path, url, postgres, monkeypatch):
    """Nobody waits for ever."""
    monkeypatch.setattr("fleet.registry.postgres._STATEMENT_SECONDS", 1)
    monkeypatch.setitem(OPTIONS, "timeout", 1)
    async with Registry(PostgresDatabase(path, url)) as registry:
        postgres.pause()
        try:
            async with asyncio.timeout(10):
                with pytest.raises(RegistryUnavailableError):
                    await registry.add(Kind.DEVICE, "a")
        finally:
            postgres.resume()
        await registry.add(Kind.DEVICE, "a")


@pytest.mark.parametrize("committed", [True, False])
async def test_the_answer_of_a_commit_is_lost(path, url, monkeypatch, committed: bool):
    """The database is asked whether it was made: memory and database never part."""
    real, lost = AsyncConnection.commit, asyncpg.ConnectionDoesNotExistError("connection was closed")

    async def commit(connection: AsyncConnection) -> None:
        if committed:
            await real(connection)
        raise lost

    async with Registry(PostgresDatabase(path, url)) as registry:
        monkeypatch.setattr(AsyncConnection, "commit", commit)
        if committed:
            await registry.add(Kind.DEVICE, "a")
        else:
            with pytest.raises(RegistryUnavailableError, match="connection was closed"):
                await registry.add(Kind.DEVICE, "a")
        monkeypatch.setattr(AsyncConnection, "commit", real)
        assert (registry.find(Kind.DEVICE, "a") is not None) is committed
        async with registry.database.reading() as connection:
            assert await connection.scalar(select(func.count()).select_from(members)) == committed
        await registry.add(Kind.DEVICE, "b")


async def test_nobody_knows_whether_it_was_made(path, url, postgres, monkeypatch, capsys):
    """It is said so; when the database is back and has it, that memory has to be read again."""
    monkeypatch.setattr("fleet.registry.postgres._DOUBT_SECONDS", 0.6)
    real = AsyncConnection.commit

    async def commit(connection: AsyncConnection) -> None:
        await real(connection)
        postgres.stop()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed")

    async with Registry(PostgresDatabase(path, url)) as registry:
        try:
            monkeypatch.setattr(AsyncConnection, "commit", commit)
            with pytest.raises(RegistryUnavailableError, match="the change may be made or not"):
                await registry.add(Kind.DEVICE, "a")
        finally:
            postgres.start()
        monkeypatch.setattr(AsyncConnection, "commit", real)
        await registry.add(Kind.DEVICE, "b")
        assert "restart to have it in memory too" in capsys.readouterr().out
    async with Registry(PostgresDatabase(path, url)) as registry:
        assert registry.get(Kind.DEVICE, "a")
