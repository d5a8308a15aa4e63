"""What came of requests for identities, as fleet.db has it: the audit of claims, and of what registered itself."""

from dataclasses import asdict, dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.registry.database import Database
from fleet.registry.schema import provisionings

_NOTES = 100_000
_SHOWN = 500


@dataclass(frozen=True, slots=True)
class Note:
    """What came of one request. Times: microseconds since 1970-01-01 UTC."""

    at: int
    how: str
    by: str
    device: str
    outcome: str
    code: str
    detail: str
    address: str


async def write_note(connection: AsyncConnection, note: Note) -> None:
    """Write one down, in the transaction of what it is about; the oldest go when there are too many."""
    await connection.execute(provisionings.insert(), [{**asdict(note), "detail": note.detail[:_SHOWN]}])
    newest = select(func.max(provisionings.c.id)).scalar_subquery()
    await connection.execute(provisionings.delete().where(provisionings.c.id <= newest - _NOTES))


async def read_notes(database: Database, how: str | None, by: str | None, limit: int) -> list[Note]:
    """What came of requests lately, the latest first."""
    statement = provisionings.select().order_by(provisionings.c.id.desc()).limit(limit)
    if how is not None:
        statement = statement.where(provisionings.c.how == how)
    if by is not None:
        statement = statement.where(provisionings.c.by == by)
    async with database.reading() as connection:
        return [
            Note(row.at, row.how, row.by, row.device, row.outcome, row.code, row.detail, row.address)
            for row in await connection.execute(statement)
        ]
