"""What operators do with MQTT: publish, look at connections and end them, watch packets, read TLS files anew."""

import base64
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from pydantic.config import JsonDict
from starlette.responses import StreamingResponse

from broker_plugins.engine.connection import Connection
from broker_plugins.engine.errors import ProtocolError
from broker_plugins.engine.message import Message
from broker_plugins.engine.packets import Packet, check_topic
from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.topics import check_levels
from fleet.errors import NotFoundError
from fleet.topics import is_servers
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.http.names import BASE64_PATTERN, Whole, looks_like
from fleetgate.http.packets import Packets, view
from fleetgate.http.streams import NDJSON, JsonLines, stream
from fleetgate.times import iso

ClientId = Annotated[str, Path(max_length=4096)]
"""In an URL a longer one has no room, with all that has to be escaped."""


_TOPIC = r"^[^+#$\x00][^+#\x00]*$"
_ONE_PAYLOAD: JsonDict = {
    "oneOf": [
        {"required": [name], "properties": {name: {"type": "string"}, other: {"type": "null"}}}
        for name, other in (("payload", "payload_base64"), ("payload_base64", "payload"))
    ]
}


class NewMessage(BaseModel):
    """A message to publish, with exactly one of `payload` (text) and `payload_base64`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_ONE_PAYLOAD)
    topic: str = Field(max_length=65_535, json_schema_extra=looks_like(_TOPIC))
    payload: str | None = None
    payload_base64: str | None = Field(None, json_schema_extra=looks_like(BASE64_PATTERN))
    qos: Whole = Field(0, ge=0, le=2)
    retain: StrictBool = False


class Published(BaseModel):
    """How many sessions the message was for."""

    subscribers: int


class ConnectionView(BaseModel):
    """A connection; `connected` is ISO 8601 UTC, `keep_alive` seconds."""

    client_id: str
    name: str
    listener: str
    address: str
    version: str
    tls: str
    connected: str | None
    keep_alive: int
    messages_in: int
    messages_out: int
    subscriptions: list[str]
    inflight: int
    queued: int


class ConnectionPage(BaseModel):
    """Some of a list; `next` is the value of `after` for the rest, null at the end."""

    items: list[ConnectionView]
    next: str | None


class Done(BaseModel):
    """It was done."""

    done: bool = True


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes, engine = APIRouter(), core.broker.engine

    @routes.post("/messages", summary="Publish a message")
    async def publish(new: NewMessage) -> Published:
        return Published(subscribers=await engine.broadcast(_message(core, new)))

    @routes.get("/connections", summary="List connections")
    async def listed(after: str = "", limit: Annotated[int, Query(ge=1, le=200)] = 200) -> ConnectionPage:
        ids = sorted(client_id for client_id in engine.connections if client_id > after)[:limit]
        found = [_view(engine.connections[client_id]) for client_id in ids]
        return ConnectionPage(items=found, next=ids[-1] if len(ids) == limit else None)

    @routes.get("/connections/{client_id:path}", summary="Show a connection")
    async def show(client_id: ClientId) -> ConnectionView:
        return _view(_connection(core, client_id))

    @routes.delete("/connections/{client_id:path}", summary="End a connection; it may come back")
    async def close(client_id: ClientId) -> Done:
        _connection(core, client_id).close(Reason.ADMINISTRATIVE_ACTION, "closed by an operator", why="operator")
        return Done()

    @routes.get("/packets", summary="Packets of a device's connection, or of all, live", response_class=JsonLines)
    async def packets(device: str | None = None) -> StreamingResponse:
        return stream(_packets(core, device), NDJSON)

    @routes.post("/tls/reload", summary="Read certificates and revocation lists anew")
    async def reload() -> Done:
        core.tls.reload()
        return Done()

    return routes


def _message(core: Core, new: NewMessage) -> Message:
    if (new.payload is None) == (new.payload_base64 is None):
        raise ArgumentError("payload, payload_base64: exactly one of them is needed")
    try:
        payload = (
            new.payload.encode()
            if new.payload is not None
            else base64.b64decode(new.payload_base64 or "", validate=True)
        )
    except ValueError as error:
        raise ArgumentError(f"payload: {error}") from None
    limits = core.broker.engine.limits
    try:
        check_topic(new.topic)
        check_levels(new.topic, limits.levels)
        size = len(new.topic.encode())
    except (ProtocolError, UnicodeEncodeError) as error:
        raise ArgumentError(f"topic: {error}") from None
    if "\0" in new.topic or is_servers(new.topic) or size > 65_535:
        raise ArgumentError("topic: not one to publish to")
    if size + len(payload) > limits.packet_bytes:
        raise ArgumentError(f"payload: a packet has at most {limits.packet_bytes} bytes")
    return Message(new.topic, payload, new.qos, new.retain)


def _connection(core: Core, client_id: str) -> Connection:
    found = core.broker.engine.connections.get(client_id)
    if found is None:
        raise NotFoundError(f"no connection with client id {client_id[:200]!r}")
    return found


def _view(connection: Connection) -> ConnectionView:
    session, packet = connection.session, connection.connect
    return ConnectionView(
        client_id=connection.client_id,
        name=connection.admitted.name,
        listener=connection.peer.listener,
        address=str(connection.peer),
        version="5" if connection.version == 5 else "3.1.1",
        tls=connection.peer.tls,
        connected=iso(connection.connected_at) if connection.connected_at else None,
        keep_alive=packet.keep_alive if packet is not None else 0,
        messages_in=connection.messages_in,
        messages_out=connection.messages_out,
        subscriptions=sorted(session.subscriptions) if session is not None else [],
        inflight=len(session.inflight) if session is not None else 0,
        queued=len(session.queue) if session is not None else 0,
    )


async def _packets(core: Core, device: str | None) -> AsyncIterator[Iterable[dict[str, Any]]]:
    yield [{"watching": device or "all connections"}]
    engine, watcher = core.broker.engine, Packets(core.tail)

    def show(client_id: str, direction: str, packet: Packet) -> None:
        watcher.put({"time": iso(engine.clock()), "client_id": client_id, **view(direction, packet)})

    engine.trace(show, device)
    try:
        async for event in watcher:
            yield [event]
    finally:
        engine.untrace(show)
        watcher.leave()
