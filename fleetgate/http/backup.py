"""Backups of the state folder."""

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from fleetgate.backup import back_up, checked_folder
from fleetgate.core import Core
from fleetgate.http.operations import OperationView, view
from fleetgate.operations import Operation


class BackupTarget(BaseModel):
    """A folder on the server's machine that is not there yet."""

    model_config = ConfigDict(extra="forbid")
    folder: str


def router(core: Core) -> APIRouter:
    """The routes of this feature."""
    routes = APIRouter(prefix="/backups", tags=["backup"])
    one = asyncio.Lock()

    @routes.post("", status_code=202, summary="Copy the state folder while everything goes on")
    async def make_backup(target: BackupTarget, response: Response) -> OperationView:
        folder = checked_folder(target.folder)

        async def work(operation: Operation) -> dict[str, Any]:
            async with one:
                return await back_up(core, folder, operation)

        operation = core.operations.start("backup", 0, work)
        response.headers["Location"] = f"/api/v1/operations/{operation.id}"
        return view(operation)

    return routes
