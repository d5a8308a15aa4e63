"""Telemetry: readings of a device, one field in buckets, last values, what was stored last, and the live view."""

from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from fleet.identity import Kind
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.http.names import DURATION_PATTERN, TIME_PATTERN, Name, looks_like
from fleetgate.http.streams import NDJSON, JsonLines, begun, stream
from fleetgate.times import iso, parse_duration, parse_time
from ingester.clock import now_us
from ingester.query import buckets, fewer, fuller, summary_of, with_field
from ingester.store import Bucket, Row, Selection
from ingester.tail import Event

NEWEST = 100


def router(core: Core) -> APIRouter:  # noqa: C901 - one function a route
    """Build the routes of this feature."""
    routes = APIRouter()

    @routes.get("/devices/{name}/telemetry", summary="Readings of a device, oldest first")
    async def telemetry(
        name: Name,
        stream_name: Annotated[str | None, Query(alias="stream")] = None,
        start: Annotated[
            str | None, Query(alias="from", description="ISO 8601 or -1h", json_schema_extra=looks_like(TIME_PATTERN))
        ] = None,
        end: Annotated[
            str | None, Query(alias="to", description="ISO 8601 or -1h", json_schema_extra=looks_like(TIME_PATTERN))
        ] = None,
        field: Annotated[str | None, Query(description="one field, dotted")] = None,
        bucket: Annotated[
            str | None,
            Query(description="with field: 30s, 1m, 1h ...", json_schema_extra=looks_like(DURATION_PATTERN)),
        ] = None,
        stats: Annotated[str, Query(description="with bucket: also sum, stddev, p50, p99 ...")] = "",
        fill: Annotated[str, Query(description="with bucket: none, null, previous or linear")] = "none",
        points: Annotated[int | None, Query(ge=3, le=100_000, description="with field: at most so many")] = None,
        limit: Annotated[int, Query(ge=1, le=100_000, description="without from: how many of the newest")] = NEWEST,
        accept: Annotated[str | None, Header()] = None,
    ) -> Response:
        selection = _selection(name, stream_name, start, end)
        await _known(core, name)
        if bucket is None and (stats or fill != "none"):
            raise ArgumentError("stats, fill: need a bucket")
        if field is None and (bucket is not None or points is not None):
            raise ArgumentError(f"{'points' if bucket is None else 'bucket'}: needs a field")
        if bucket is not None and field is not None:
            summary = summary_of([name for name in stats.split(",") if name], fill)
            width = parse_duration(bucket, "bucket")
            found = await buckets(core.store, selection, field, width, summary)
            if not stats and fill == "none":
                found = fuller(await core.store.older_buckets(selection, field, width), found)
            return stream(_once(map(_bucket, found)), accept)
        if points is not None and field is not None:
            chosen = await fewer(core.store, selection, field, points)
            return stream(_once([_value(row, field) for row in chosen]), accept)
        return stream(await begun(_rows(core, selection, field, None if start is not None else limit)), accept)

    @routes.get("/devices/{name}/telemetry/last", summary="The newest reading of each stream")
    async def last(name: Name) -> list[dict[str, Any]]:
        await _known(core, name)
        return [_reading(row) for row in await core.last_values.of(name)]

    @routes.get("/devices/{name}/clock", summary="How far the clock of a device is off")
    async def clock(name: Name) -> dict[str, Any]:
        await _known(core, name)
        skew = core.observer.clocks.skew(name)
        if skew is None:
            return {"device": name, "behind_seconds": None, "samples": 0}
        return {"device": name, "behind_seconds": skew.microseconds / 1e6, "samples": skew.samples}

    @routes.get("/telemetry/recent", summary="What was stored last, of any device")
    async def recent(limit: Annotated[int, Query(ge=1, le=1000)] = 10) -> list[dict[str, Any]]:
        return [_reading(row) for row in await core.store.recent(limit)]

    @routes.get("/telemetry/settled", summary="A time up to which all that was received is stored")
    async def settled() -> dict[str, str]:
        return {"until": iso(await core.settled())}

    @routes.get("/tail", summary="What is committed and refused, live, as JSON lines", response_class=JsonLines)
    async def tail(device: str | None = None) -> Response:
        async def lines() -> AsyncIterator[list[dict[str, Any]]]:
            with core.tail.watch(device) as watcher:
                yield [{"watching": device or "all devices"}]
                async for event in watcher:
                    yield [_event(event)]

        return stream(lines(), NDJSON)

    return routes


def _selection(name: str, stream_name: str | None, start: str | None, end: str | None) -> Selection:
    now = now_us()
    return Selection(
        name,
        stream_name,
        parse_time(start, "from", now) if start is not None else None,
        parse_time(end, "to", now) if end is not None else None,
    )


async def _known(core: Core, name: str) -> None:
    """A name that is neither registered nor has telemetry is a slip of the pen."""
    if not await core.store.has(name):
        core.registry.get(Kind.DEVICE, name)


async def _rows(
    core: Core, selection: Selection, field: str | None, limit: int | None
) -> AsyncIterator[Iterable[dict[str, Any]]]:
    view = _reading if field is None else lambda row: _value(row, field)
    if limit is not None:
        newest = await core.store.newest(selection, limit)
        yield [view(row) for row in newest if field is None or field in row.fields]
        return
    async for rows in with_field(core.store.rows(selection), field):
        yield map(view, rows)


async def _once(found: Iterable[dict[str, Any]]) -> AsyncIterator[Iterable[dict[str, Any]]]:
    """What is wrong with a question is known by now, while an answer can still say so."""
    yield found


def _bucket(bucket: Bucket) -> dict[str, Any]:
    return {
        "time": iso(bucket.time),
        "count": bucket.count,
        "min": bucket.minimum,
        "max": bucket.maximum,
        "avg": bucket.average,
        "last": bucket.last,
        **bucket.more,
    }


def _reading(row: Row) -> dict[str, Any]:
    view = {
        "device": row.device,
        "stream": row.stream,
        "time": iso(row.time),
        "received": iso(row.received),
        "fields": row.fields,
    }
    flags = [*row.marks, *([] if row.plausible else ["time_implausible"])]
    return {**view, "flags": flags} if flags else view


def _value(row: Row, field: str) -> dict[str, Any]:
    return {
        "time": iso(row.time),
        "received": iso(row.received),
        "stream": row.stream,
        "field": field,
        "value": row.fields[field],
    }


def _event(event: Event) -> dict[str, Any]:
    return {key: iso(value) if key in {"time", "received"} else value for key, value in event.items()}
