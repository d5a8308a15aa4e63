"""Changes as server-sent events [HTML, 9.2]: of devices, of their presence, what is refused, how operations end."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Query
from starlette.responses import StreamingResponse

from fleet.errors import NotFoundError
from fleet.operators.model import Caller
from fleetgate.changes import Change, Changes, Kind
from fleetgate.core import Core
from fleetgate.http.access import Calling, within
from ingester.tail import Watcher

_STILL_HERE_SECONDS = 15.0
_is_id = re.compile(r"(\d{1,18})-(\d{1,18})").fullmatch


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()

    @routes.get("/changes", summary="Changes as they happen, as server-sent events", response_class=EventStream)
    async def changes(
        caller: Calling,
        kinds: Annotated[list[Kind] | None, Query(description="only these; by default all")] = None,
        device: Annotated[str | None, Query(max_length=128, description="only of this device")] = None,
        last_event_id: Annotated[str | None, Header(max_length=64, description="go on behind that one")] = None,
    ) -> StreamingResponse:
        wanted = frozenset(kinds or Kind)

        async def told() -> AsyncIterator[bytes]:
            with core.changes.watch(_after(core.changes, last_event_id)) as (watcher, lost):
                yield _gap() if lost else b": watching\n\n"
                async for change in _events(watcher):
                    if change is None:
                        yield b": still here\n\n"
                    elif isinstance(change, int):
                        yield _gap()
                    elif change.kind in wanted and await _may_see(core, caller, change, device):
                        yield _event(core.changes.epoch, change)

        return EventStream(told(), headers={"Cache-Control": "no-store"})

    return routes


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


def _after(changes: Changes, last: str | None) -> int | None:
    """The number behind which it goes on; -1: of another run, whose changes are forgotten."""
    found = _is_id(last or "")
    if found is None:
        return None
    return int(found[2]) if int(found[1]) == changes.epoch else -1


async def _events(watcher: Watcher) -> AsyncIterator[Change | int | None]:
    """Changes; how many were missed; None now and then, so that who is gone is noticed."""
    events = aiter(watcher)
    upcoming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait([upcoming], timeout=_STILL_HERE_SECONDS)
            if not done:
                yield None
                continue
            event = upcoming.result()
            if event is None:
                return
            yield event["change"] if "change" in event else event["missed"]
            upcoming = asyncio.ensure_future(anext(events, None))
    finally:
        upcoming.cancel()


async def _may_see(core: Core, caller: Caller, change: Change, device: str | None) -> bool:
    """Whether it is the caller's to see; `device`: and is about that one."""
    if device not in {None, change.device}:
        return False
    if caller.whole:
        return True
    if not change.device:
        return False
    try:
        await within(core, caller, change.device)
    except NotFoundError:
        return False
    return True


def _event(epoch: int, change: Change) -> bytes:
    data = orjson.dumps(change.said)
    return b"id: %d-%d\nevent: %s\ndata: %s\n\n" % (epoch, change.number, change.kind.encode(), data)


def _gap() -> bytes:
    """Some were missed: look at everything anew."""
    return b"event: gap\ndata: {}\n\n"
