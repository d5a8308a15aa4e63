"""Datasets: their definitions, and their results."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from fleetgate.analytics.question import MEDIA_TYPES, Form
from fleetgate.core import Core
from fleetgate.datasets import Dataset, Definition, Version
from fleetgate.history import needs_analytics
from fleetgate.http.names import Deleted, Name
from fleetgate.http.sql import IN_ANY_FORM
from fleetgate.http.versions import IfMatch, expected_version, with_version
from fleetgate.times import iso


class DatasetView(BaseModel):
    """A dataset. What was received up to `watermark` is in its results; null: not yet."""

    name: str
    version: int
    definition: Definition
    watermark: str | None
    ran: str | None
    next_run: str | None
    problem: str | None


class ResultView(BaseModel):
    """One result."""

    number: int
    at: str
    since: str
    until: str
    rows: int
    bytes: int
    sha256: str
    format: Form
    delivered: str | None
    problem: str | None


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter(prefix="/datasets")
    datasets = core.datasets

    @routes.get("", summary="List datasets")
    async def list_datasets() -> list[DatasetView]:
        return [_view(one) for one in datasets.all()]

    @routes.get("/{name}", summary="Show a dataset")
    async def show_dataset(name: Name, response: Response) -> DatasetView:
        return with_version(response, _view(datasets.get(name)))

    @routes.put("/{name}", summary="Define a dataset, or change it; it goes on where it was")
    async def put_dataset(
        name: Name, definition: Definition, response: Response, if_match: IfMatch = None
    ) -> DatasetView:
        return with_version(response, _view(await datasets.put(name, definition, expected_version(if_match))))

    @routes.delete("/{name}", summary="Delete a dataset and its results; what was delivered stays")
    async def delete_dataset(name: Name) -> Deleted:
        await datasets.delete(name)
        return Deleted(name=name)

    @routes.post("/{name}/run", summary="Ask now, whatever the schedule says")
    async def run_dataset(name: Name) -> ResultView:
        needs_analytics()
        return _result(await datasets.run(name))

    @routes.get("/{name}/results", summary="List the results that are kept, the oldest first")
    async def list_results(name: Name) -> list[ResultView]:
        return [_result(one) for one in await datasets.versions(name)]

    @routes.get(
        "/{name}/result",
        summary="One result as it was made, the newest or by number",
        response_class=Response,
        responses=IN_ANY_FORM,
    )
    async def read_result(name: Name, number: Annotated[int | None, Query(ge=1)] = None) -> Response:
        version, data = await datasets.read(name, number)
        return Response(
            data, media_type=MEDIA_TYPES[version.format], headers={"Fleetgate-Version": str(version.number)}
        )

    return routes


def _view(dataset: Dataset) -> DatasetView:
    return DatasetView(
        name=dataset.name,
        version=dataset.version,
        definition=dataset.definition,
        watermark=iso(dataset.watermark) if dataset.watermark else None,
        ran=iso(dataset.ran) if dataset.ran else None,
        next_run=iso(dataset.next_run()) if dataset.ran else None,
        problem=dataset.problem or None,
    )


def _result(version: Version) -> ResultView:
    return ResultView(
        number=version.number,
        at=iso(version.at),
        since=iso(version.since),
        until=iso(version.until),
        rows=version.rows,
        bytes=version.size_bytes,
        sha256=version.sha256,
        format=version.format,
        delivered=iso(version.delivered) if version.delivered else None,
        problem=version.problem or None,
    )
