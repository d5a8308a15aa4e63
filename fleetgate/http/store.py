"""The store: what is in which tier, sealing, and whether its files are sound."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, SecretStr

from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.history import needs_analytics
from fleetgate.http.access import Acting
from fleetgate.http.operations import OperationView, view
from fleetgate.operations import Operation
from fleetgate.postgres import checked_url, migrate, needs_postgres
from fleetgate.times import iso
from ingester.history.model import DamagedError, SealedFile

_FILES = 1000


class FileView(BaseModel):
    """A file of the history, as the catalogue has it. `stream` null: it has readings of many streams."""

    path: str
    stream: str | None
    rows: int
    messages: int
    first: str
    last: str
    bytes: int
    sha256: str
    fields: dict[str, str]


class StoreView(BaseModel):
    """Bytes by tier, and how many files, readings and messages are in the history."""

    bytes: dict[str, int]
    files: int
    rows: int
    messages: int
    bytes_per_message: float | None


class SealResult(BaseModel):
    """Messages that were sealed, and files that went into larger ones."""

    sealed: int
    merged: int


class MigrationTarget(BaseModel):
    """The database to copy to; empty: the one of store.url."""

    model_config = ConfigDict(extra="forbid")
    url: SecretStr = SecretStr("")


class DamageView(BaseModel):
    """Rows of a file that no longer read."""

    path: str
    first_row: int
    last_row: int
    detail: str


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter(prefix="/store")

    @routes.get("", summary="What is in which tier")
    async def show_store() -> StoreView:
        files = core.store.catalogue.files
        size, messages = sum(file.size_bytes for file in files), sum(file.messages for file in files)
        return StoreView(
            bytes=core.store.size_bytes(),
            files=len(files),
            rows=sum(file.rows for file in files),
            messages=messages,
            bytes_per_message=round(size / messages, 2) if messages else None,
        )

    @routes.get("/files", summary="List the files of the history")
    async def list_files(after: int = 0, limit: Annotated[int, Query(ge=1, le=_FILES)] = _FILES) -> list[FileView]:
        return [_file(file) for file in core.store.catalogue.files[after : after + limit]]

    @routes.post("/seal", summary="Seal what is in the journal now, and merge small files")
    async def seal() -> SealResult:
        needs_analytics()
        if core.mover is not None:
            if not core.settings.history.seal:
                raise ArgumentError("store.url is set and history.seal = false: nothing is sealed")
            await core.mover.move()
        sealed = await core.sealer.seal(fresh_seconds=0)
        return SealResult(sealed=sealed, merged=await core.sealer.merge())

    @routes.post("/migrate", status_code=202, summary="Copy the history into PostgreSQL")
    async def migrate_store(target: MigrationTarget, response: Response, begun: Acting) -> OperationView:
        needs_postgres()
        needs_analytics()
        url = checked_url((target.url or core.settings.store.url).get_secret_value())

        async def work(operation: Operation) -> dict[str, Any]:
            if core.mover is None:
                await core.sealer.seal(fresh_seconds=0)
            return await migrate(core.store, url, operation)

        operation = core.operations.start("store-migrate", len(core.store.catalogue.files), work, begun)
        response.headers["Location"] = f"/api/v1/operations/{operation.id}"
        return view(operation)

    @routes.post("/scrub", summary="Read every file of the history, and say what is damaged")
    async def scrub() -> list[DamageView]:
        needs_analytics()
        return [_damage(error) for error in await core.sealer.scrub()]

    return routes


def _file(file: SealedFile) -> FileView:
    return FileView(
        path=file.path,
        stream=file.stream or None,
        rows=file.rows,
        messages=file.messages,
        first=iso(file.first),
        last=iso(file.last),
        bytes=file.size_bytes,
        sha256=file.sha256,
        fields=dict(file.fields),
    )


def _damage(error: DamagedError) -> DamageView:
    return DamageView(path=error.path, first_row=error.rows[0], last_row=error.rows[1], detail=error.detail)
