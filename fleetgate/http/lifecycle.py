"""Rules of the life of devices: list, show, make and change, run dry, enable, run, delete."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from fleet.documents import MAX_BYTES
from fleet.lifecycle.model import read_rule, source_of
from fleet.lifecycle.service import Kept, Run
from fleetgate.core import Core
from fleetgate.http.names import Deleted, Name
from fleetgate.http.versions import IfMatch, expected_version, with_version
from fleetgate.times import iso


class RuleBody(BaseModel):
    """A rule, as JSON or YAML text."""

    model_config = ConfigDict(extra="forbid")
    document: str = Field(max_length=MAX_BYTES)


class RuleView(BaseModel):
    """A rule; times are ISO 8601 UTC, null: it did not run yet. `tried` is the version that ran dry last."""

    name: str
    version: int
    document: dict[str, Any]
    tried: int
    enabled: bool
    ran: str | None
    problem: str
    created: str
    updated: str


class RunView(BaseModel):
    """What a run did, or would do, to which devices, in order; `problem` is empty where nothing is wrong."""

    then: str
    count: int
    devices: Annotated[Sequence[str], Field(max_length=1_000_000)]
    problem: str


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter(prefix="/lifecycle-rules")
    rules = core.lifecycle

    @routes.get("", summary="List rules")
    async def list_rules() -> list[RuleView]:
        return [_view(found) for found in rules.all()]

    @routes.get("/{name}", summary="Show a rule")
    async def show_rule(name: Name, response: Response) -> RuleView:
        return with_version(response, _view(rules.get(name)))

    @routes.put("/{name}", summary="Make a rule, or change it: it does nothing until it ran dry and is enabled")
    async def put_rule(name: Name, body: RuleBody, response: Response, if_match: IfMatch = None) -> RuleView:
        kept = await rules.put(name, read_rule(body.document), expected_version(if_match))
        return with_version(response, _view(kept))

    @routes.delete("/{name}", summary="Delete a rule")
    async def delete_rule(name: Name) -> Deleted:
        await rules.delete(name)
        return Deleted(name=name)

    @routes.post("/{name}/dry-run", summary="Say what it would do now")
    async def dry_run(name: Name) -> RunView:
        return _run(rules.get(name), await rules.try_out(name))

    @routes.post("/{name}/run", summary="Do now what it says")
    async def run(name: Name) -> RunView:
        return _run(rules.get(name), await rules.run(name))

    @routes.post("/{name}/enable", summary="Let it run by itself")
    async def enable(name: Name, response: Response) -> RuleView:
        return with_version(response, _view(await rules.enable(name, enabled=True)))

    @routes.post("/{name}/disable", summary="Let it run no more")
    async def disable(name: Name, response: Response) -> RuleView:
        return with_version(response, _view(await rules.enable(name, enabled=False)))

    return routes


def _run(kept: Kept, found: Run) -> RunView:
    return RunView(then=kept.rule.then, count=len(found.devices), devices=list(found.devices), problem=found.problem)


def _view(kept: Kept) -> RuleView:
    return RuleView(
        name=kept.name,
        version=kept.version,
        document=source_of(kept.rule),
        tried=kept.tried,
        enabled=kept.enabled,
        ran=iso(kept.ran) if kept.ran else None,
        problem=kept.problem,
        created=iso(kept.created),
        updated=iso(kept.updated),
    )
