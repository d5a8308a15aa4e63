"""The store: what is in which tier, sealing, and whether its files are sound."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from fleetgate.core import Core
from fleetgate.history import needs_analytics
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
        sealed = await core.sealer.seal(fresh_seconds=0)
        return SealResult(sealed=sealed, merged=await core.sealer.merge())

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
