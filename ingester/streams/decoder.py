"""A stream's definition at work: payloads to readings, in the form that every store keeps. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ingester.batch import Decoded
from ingester.codecs import CODECS, UNPACKERS, Codec, Context, Parsed
from ingester.codecs.births import Births
from ingester.codecs.model import time_in
from ingester.decode import DecodeError, Limits, Reading, encode, flatten, found_at
from ingester.streams.definition import OWN_TIMES, Definition, TimeRule, validator_of

_INVALID = "schema"
_NAMES = frozenset({"device", "stream"})


class Decoder:
    """Reads the messages of one definition. What its codec remembers beyond the definition's life is in `births`."""

    def __init__(self, definition: Definition, limits: Limits, births: Births | None = None) -> None:
        self.definition = definition
        self._limits = limits
        self._unpackers = [UNPACKERS[name]() for name in definition.codec[:-1]]
        self._codec: Codec = CODECS[definition.codec[-1]](replace(definition.options, births=births))
        self._validator = validator_of(definition.schema) if definition.schema is not None else None
        self._timed = definition.codec[-1] not in OWN_TIMES or "time" in definition.source
        """Whether a field may be the time of a reading: where a format has times, one called `ts` is a value."""
        self.native = (
            definition.codec == ("json",) and definition.time == TimeRule() and not definition.filter.names - _NAMES
        )
        """Whether the payload itself is what a store keeps."""

    @property
    def rejects(self) -> bool:
        """Whether the sender is to be told of what the schema does not allow."""
        return self._validator is not None and self.definition.on_invalid == "reject"

    @property
    def plain(self) -> bool:
        """Whether there is nothing to it: JSON without a schema."""
        return self.native and self._validator is None

    @property
    def units(self) -> Mapping[str, str]:
        """Units of fields that the messages themselves name."""
        return getattr(self._codec, "units", {})

    @property
    def remembers(self) -> bool:
        """Whether what a message means depends on those before it, of one source."""
        return hasattr(self._codec, "unread")

    def read(self, payload: bytes, context: Context, captured: Mapping[str, str]) -> list[Parsed]:
        """Readings with flat fields. Raises DecodeError."""
        try:
            payload = self._unpacked(payload)
        except DecodeError:
            if (unread := getattr(self._codec, "unread", None)) is not None:
                unread(context)
            raise
        return [self._finished(parsed, captured) for parsed in self._codec.parse(payload, context)]

    def _unpacked(self, payload: bytes) -> bytes:
        if len(payload) > self._limits.max_bytes:
            raise DecodeError("size", f"{len(payload)} bytes, the limit is {self._limits.max_bytes}")
        for unpacker in self._unpackers:
            payload = unpacker.unpack(payload, self._limits)
        return payload

    def levels(self, topic: str) -> Mapping[str, str]:
        """Levels of a topic that tell readings apart, in the view of the codec, and that the filter does not name."""
        levels = getattr(self._codec, "levels", None)
        if levels is None:
            return {}
        unnamed = self.definition.filter.unnamed
        return {name: level for position, (name, level) in levels(topic).items() if unnamed(position)}

    def _finished(self, parsed: Parsed, captured: Mapping[str, str]) -> Parsed:
        time, fields, marks = parsed
        if self._validator is not None and not self._validator.is_valid(fields):
            marks = (*marks, self._invalid(fields))
        rule = self.definition.time
        flat = flatten(fields, None)
        captured = dict(captured)
        if not rule.field:
            time = None
        elif time is None and self._timed:
            if isinstance(fields.get(rule.field), dict):
                raise DecodeError("timestamp", f"{rule.field[:100]} is an object, not a number or ISO 8601 text")
            given = flat.pop(rule.field) if rule.field in flat else captured.pop(rule.field, None)
            time = None if given is None else time_in(given, rule.unit)
        for name, value in captured.items():
            if flat.get(name) != value:  # said twice alike it is one field
                flat[free_name(name, flat)] = value
        return Parsed(time, flat, marks)

    def _invalid(self, fields: dict[str, Any]) -> str:
        """The mark of a reading that the schema does not allow; raises DecodeError where it is not to be stored."""
        if self.definition.on_invalid != "mark" and self._validator is not None:
            error = next(self._validator.iter_errors(fields))
            where = ".".join(map(str, error.instance_path)) or "the payload"
            raise DecodeError(_INVALID, f"{where[:100]}: {error.message[:200]}")
        return _INVALID


@dataclass(frozen=True, slots=True)
class BoundDecoder:
    """A decoder for the messages of one topic and device. See batch.Decoder."""

    decoder: Decoder
    topic: str
    device: str
    captured: Mapping[str, str]
    limits: Limits
    content_type: str = ""
    """What chose the codec, where the sender did."""
    source: str | None = ""
    replayed: bool = False
    """See codecs.Context, both."""

    @property
    def codec(self) -> str:
        """As the definition names it."""
        return " ".join(self.decoder.definition.codec)

    def parse(self, payload: bytes, received: int, *, trial: bool = False) -> list[Parsed]:
        """Readings with flat fields. Raises DecodeError."""
        return self.decoder.read(payload, self._context(received, trial=trial), self.captured)

    def decode(self, payload: bytes, received: int) -> Decoded:
        """See batch.Decoder."""
        context = self._context(received)
        readings = [
            Reading(received if time is None else time, 0, plausible=True, fields=fields, marks=marks)
            for time, fields, marks in self.decoder.read(payload, context, self.captured)
        ]
        found = [found_at(reading.time, received) for reading in readings]
        kept = self.decoder.native and not any(reading.marks for reading in readings)
        return Decoded(min(found), max(found), None if kept else encode(readings), context.bad)

    def _context(self, received: int, *, trial: bool = False) -> Context:
        return Context(self.topic, self.device, received, self.limits, trial, self.source, self.replayed)


def free_name(name: str, fields: Mapping[str, Any]) -> str:
    """The name of a level of a topic beside fields that may have it already."""
    while name in fields:
        name = f"topic.{name}"
    return name
