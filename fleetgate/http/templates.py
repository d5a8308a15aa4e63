"""Templates: what devices are registered as that provision themselves."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from fleet.documents import MAX_BYTES
from fleet.provisioning.template import read_template
from fleetgate.core import Core
from fleetgate.http.names import Deleted, Name
from fleetgate.http.versions import IfMatch, expected_version, with_version


class TemplateBody(BaseModel):
    """A template, as JSON or YAML text."""

    model_config = ConfigDict(extra="forbid")
    document: str = Field(max_length=MAX_BYTES)


class TemplateView(BaseModel):
    """A template."""

    name: str
    version: int
    document: dict[str, Any]


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    templates = core.provisioning.templates

    def view(name: str) -> TemplateView:
        source, _template, version = templates.get(name)
        return TemplateView(name=name, version=version, document=source)

    @routes.get("/templates", summary="List templates")
    async def list_templates() -> list[TemplateView]:
        return [view(name) for name in templates.all()]

    @routes.get("/templates/{name}", summary="Show a template")
    async def show_template(name: Name, response: Response) -> TemplateView:
        return with_version(response, view(name))

    @routes.put("/templates/{name}", summary="Make a template, or change it")
    async def put_template(
        name: Name, body: TemplateBody, response: Response, if_match: IfMatch = None
    ) -> TemplateView:
        source, template = read_template(body.document)
        for group in template.groups:
            if "${" not in group:
                core.groups.static(group)
        if (kind := template.texts.get("type")) and "${" not in kind:
            core.types.get(kind)
        await templates.put(name, source, template, expected_version(if_match))
        return with_version(response, view(name))

    @routes.delete("/templates/{name}", summary="Delete a template that nothing needs")
    async def delete_template(name: Name) -> Deleted:
        await templates.delete(name)
        return Deleted(name=name)

    return routes
