"""Operations: how far long work is, and what came of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel

from fleetgate.core import Core
from fleetgate.http.access import Calling
from fleetgate.operations import Operation, no_operation
from fleetgate.times import iso


class OperationView(BaseModel):
    """Long work: `running`, `done` (with its result) or `failed` (with the problem); times are ISO 8601 UTC."""

    id: str
    kind: str
    created: str
    state: str
    done: int
    total: int
    result: dict[str, Any] | None
    problem: str | None


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter(prefix="/operations")

    @routes.get("/{operation}", summary="Show how far an operation is")
    async def show_operation(operation: Annotated[str, Path(max_length=64)], caller: Calling) -> OperationView:
        found = core.operations.get(operation)
        if not caller.whole and found.begun.act.actor != caller.name:  # it may name devices that are not the caller's
            raise no_operation(operation)
        return view(found)

    return routes


def view(operation: Operation) -> OperationView:
    """What the API says of an operation."""
    return OperationView(
        id=operation.id,
        kind=operation.kind,
        created=iso(operation.created),
        state=operation.state,
        done=operation.done,
        total=operation.total,
        result=operation.result,
        problem=operation.problem,
    )
