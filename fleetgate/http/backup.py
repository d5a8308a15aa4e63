"""Backups of the state folder."""

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from fleetgate.backup import back_up, checked_file
from fleetgate.core import Core
from fleetgate.http.access import Acting
from fleetgate.http.operations import OperationView, view
from fleetgate.operations import Operation


class BackupTarget(BaseModel):
    """A file on the server's machine that is not there yet; keys in it are encrypted where there is a passphrase."""

    model_config = ConfigDict(extra="forbid")
    file: str
    passphrase: SecretStr | None = Field(None, min_length=1, max_length=1024)


def router(core: Core) -> APIRouter:
    """The routes of this feature."""
    routes = APIRouter(prefix="/backups", tags=["backup"])
    one = asyncio.Lock()

    @routes.post("", status_code=202, summary="Copy the state folder while everything goes on")
    async def make_backup(target: BackupTarget, response: Response, begun: Acting) -> OperationView:
        file = checked_file(target.file)
        passphrase = None if target.passphrase is None else target.passphrase.get_secret_value().encode()

        async def work(operation: Operation) -> dict[str, Any]:
            async with one:
                return await back_up(core, file, passphrase, operation)

        operation = core.operations.start("backup", 0, work, begun)
        response.headers["Location"] = f"/api/v1/operations/{operation.id}"
        return view(operation)

    return routes
