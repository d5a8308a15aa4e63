"""Streams: which topics are telemetry of what, how it is read, and what a codec would make of a payload."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, ConfigDict, Field

from fleet.streams import Kept
from fleetgate.core import Core
from fleetgate.http.binary import decode_base64
from fleetgate.http.names import Deleted, Name
from fleetgate.http.versions import IfMatch, expected_version, with_version
from fleetgate.times import iso
from ingester.clock import now_us
from ingester.streams.definition import FieldNote
from ingester.streams.observed import ObservedStream
from ingester.streams.trial import Trial, try_codecs

_PAYLOAD_CHARACTERS = 400_000
_NO_NOTE = FieldNote()


class StreamView(BaseModel):
    """A stream. `version` 0: it is one of the settings, and changed there."""

    name: str
    version: int
    definition: dict[str, Any]
    units: dict[str, str] = Field(description="units that messages named themselves")


class ObservedFieldView(BaseModel):
    """One field, with how often it was seen with each type, and what is said of it."""

    name: str
    types: dict[str, int]
    first: str
    last: str
    unit: str
    description: str


class DriftView(BaseModel):
    """A field that is new (`was` null), or has another type."""

    time: str
    field: str
    was: str | None
    now: str
    device: str


class ObservedView(BaseModel):
    """What was seen of a stream since the server started, in those of its messages that were looked at."""

    stream: str
    messages: int
    fields: list[ObservedFieldView]
    drifts: list[DriftView]


class TrialRequest(BaseModel):
    """A payload, and where it would come from."""

    model_config = ConfigDict(extra="forbid")
    topic: str = Field(max_length=65_535)
    device: str = Field("", max_length=128, description="who sends it, where the topic does not say")
    content_type: str = Field("", max_length=256, description="as MQTT 5 would have it")
    payload_base64: str = Field(max_length=_PAYLOAD_CHARACTERS)


class ReadingView(BaseModel):
    """A reading as it would be kept."""

    time: str | None
    fields: dict[str, Any]
    marks: list[str]


class TrialView(BaseModel):
    """What one definition, or one codec alone, makes of the payload. `chosen` is the one that counts."""

    stream: str | None
    definition: str | None
    codec: str
    chosen: bool
    reason: str | None
    detail: str | None
    readings: list[ReadingView]


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    definitions = core.streams

    def view(kept: Kept) -> StreamView:
        decoder = definitions.streams.decoders[kept.definition.name]
        return StreamView(
            name=kept.definition.name,
            version=kept.version,
            definition=dict(kept.definition.source),
            units=dict(decoder.units),
        )

    @routes.get("/streams", summary="List streams that are defined")
    async def list_streams() -> list[StreamView]:
        return [view(kept) for kept in definitions.all()]

    @routes.get("/streams/{name}", summary="Show the definition of a stream")
    async def show_stream(name: Name, response: Response) -> StreamView:
        return with_version(response, view(definitions.get(name)))

    @routes.put("/streams/{name}", summary="Define a stream, or change it")
    async def put_stream(
        name: Name, body: Annotated[dict[str, Any], Body()], response: Response, if_match: IfMatch = None
    ) -> StreamView:
        return with_version(response, view(await definitions.put(name, body, expected_version(if_match))))

    @routes.delete("/streams/{name}", summary="Delete a definition; what was stored by it stays")
    async def delete_stream(name: Name) -> Deleted:
        await definitions.delete(name)
        return Deleted(name=name)

    @routes.get("/stream-fields", summary="What streams really send, and what is new of it")
    async def stream_fields(stream: str | None = None) -> list[ObservedView]:
        found = core.observer.observed.streams
        notes = {one.definition.stream: one.definition.fields for one in definitions.all()}
        return [
            _observed(name, seen, notes.get(name, {})) for name, seen in sorted(found.items()) if stream in {None, name}
        ]

    @routes.post("/codec-trials", summary="What each codec would make of a payload")
    async def try_payload(request: TrialRequest) -> list[TrialView]:
        payload = decode_base64(request.payload_base64, "payload_base64")
        found = try_codecs(definitions.streams, request.topic, request.device, request.content_type, payload, now_us())
        return [_trial(one) for one in found]

    return routes


def _observed(stream: str, seen: ObservedStream, notes: Mapping[str, FieldNote]) -> ObservedView:
    fields = [
        ObservedFieldView(
            name=name,
            types=found.types,
            first=iso(found.first),
            last=iso(found.last),
            unit=notes.get(name, _NO_NOTE).unit,
            description=notes.get(name, _NO_NOTE).description,
        )
        for name, found in sorted(seen.fields.items())
    ]
    drifts = [
        DriftView(time=iso(one.time), field=one.field, was=one.was or None, now=one.now, device=one.device)
        for one in seen.drifts
    ]
    return ObservedView(stream=stream, messages=seen.messages, fields=fields, drifts=drifts)


def _trial(trial: Trial) -> TrialView:
    readings = [
        ReadingView(time=None if time is None else iso(time), fields=fields, marks=list(marks))
        for time, fields, marks in trial.readings
    ]
    return TrialView(**{**asdict(trial), "readings": readings})
