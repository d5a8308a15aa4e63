"""Which devices send most now, are newest, are refused most."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from fleet.operators.model import Caller
from fleetgate.core import Core
from fleetgate.http.access import Calling, scope_of
from fleetgate.times import iso
from fleetgate.top import Sent, busiest, most_refused

_PAGE = 5000


class SentView(BaseModel):
    """What a device sent: a second, lately, and since the start; and what of it was refused."""

    device: str
    messages_per_second: float
    bytes_per_second: float
    rejected_per_second: float
    messages: int
    rejected: int


class NewView(BaseModel):
    """A device that was registered; `created` is ISO 8601 UTC."""

    device: str
    created: str
    state: str
    connected: bool


class TopView(BaseModel):
    """The first of each kind; rates are over the last `seconds`."""

    seconds: float
    devices: int
    connected: int
    messages_per_second: float
    busiest: list[SentView]
    refused: list[SentView]
    newest: list[NewView]


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()

    @routes.get("/top", summary="The busiest, the most refused and the newest devices, now")
    async def show_top(caller: Calling, limit: Annotated[int, Query(ge=1, le=100)] = 10) -> TopView:
        among = await _among(core, caller)
        looked = await core.top.sent()
        sent = [one for one in looked.sent if among is None or one.device in among]
        connected = core.ledger.totals.connections if among is None else sum(map(core.presence.connected, among))
        return TopView(
            seconds=round(looked.seconds, 3),
            devices=len(among) if among is not None else await core.inventory.count(""),
            connected=connected,
            messages_per_second=round(sum(one.messages_per_second for one in sent), 3),
            busiest=[_view(one) for one in busiest(sent, limit)],
            refused=[_view(one) for one in most_refused(sent, limit)],
            newest=[
                NewView(
                    device=member.name,
                    created=iso(member.created),
                    state=member.state,
                    connected=core.presence.connected(member.name),
                )
                for member in await core.top.newest(limit, among)
            ],
        )

    return routes


async def _among(core: Core, caller: Caller) -> set[str] | None:
    """The devices that are the caller's; None: all."""
    if caller.whole:
        return None
    found, after, scope = set[str](), "", scope_of(core, caller)
    while names := await core.inventory.find("", after, _PAGE, scope):
        found.update(names)
        after = names[-1]
    return found


def _view(sent: Sent) -> SentView:
    return SentView(
        device=sent.device,
        messages_per_second=round(sent.messages_per_second, 3),
        bytes_per_second=round(sent.bytes_per_second, 3),
        rejected_per_second=round(sent.rejected_per_second, 3),
        messages=sent.messages,
        rejected=sent.rejected,
    )
