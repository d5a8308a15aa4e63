"""All streams of a gate at one moment: which of them a topic means. Changes count for the next message."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ingester.batch import Decoder as BatchDecoder
from ingester.codecs import CONTENT_TYPES
from ingester.codecs.births import Births
from ingester.decode import DecodeError, Limits
from ingester.streams.decoder import BoundDecoder, Decoder, free_name
from ingester.streams.definition import Definition, StreamError, from_object
from ingester.streams.known import Exceeding, KnownStreams
from ingester.topics import DEFAULT_STREAM, MAX_DEVICE_LENGTH

_REMEMBERED = 10_000
_TOPIC_LENGTH = 200

TypeOf = Callable[[str], str]
"""The type of a device, "" where it has none."""

NATIVE = (
    from_object("native", {"filter": "devices/{device}/telemetry", "stream": DEFAULT_STREAM}),
    from_object("native-streams", {"filter": "devices/{device}/telemetry/{stream...}", "stream": "{stream}"}),
)
"""What counts before anything is defined."""


@dataclass(frozen=True, slots=True)
class Destination:
    """What a message is telemetry of. `decoder` is None for plain JSON, which the quick way takes."""

    device: str
    stream: str
    decoder: BoundDecoder | None = None
    exceeding: Exceeding | None = None
    """The decoder of a stream beyond the device's limit."""

    @property
    def reader(self) -> BatchDecoder | None:
        """The decoder of its messages; None: plain JSON."""
        return self.exceeding or self.decoder

    def invalid(self, payload: bytes, received: int) -> str | None:
        """Why a message is not to be taken; None: it is, though it may end in quarantine."""
        if self.decoder is None or not self.rejects:
            return None
        try:
            self.decoder.parse(payload, received, trial=True)
        except DecodeError as error:
            return str(error) if error.reason == "schema" else None
        return None

    def takes_empty(self, received: int) -> bool:
        """Whether an empty payload is a message: some formats leave out what is zero."""
        try:
            return self.decoder is not None and bool(self.decoder.parse(b"", received, trial=True))
        except DecodeError:
            return False

    @property
    def rejects(self) -> bool:
        """Whether it has to be read before it is taken, for its sender may be told that it is invalid."""
        return self.decoder is not None and self.decoder.decoder.rejects


class Streams:
    """The table. `changed` is called when destinations that were given out may be others now."""

    def __init__(
        self,
        limits: Limits | None = None,
        type_of: TypeOf = lambda _device: "",
        known: KnownStreams | None = None,
    ) -> None:
        self.known = known or KnownStreams()
        self._limits = limits or Limits()
        self._type_of = type_of
        self.births = Births()
        self._decoders: list[Decoder] = []
        self._by_content: dict[str, Decoder] = {}
        self._remembered: OrderedDict[tuple[str, str], Destination | None] = OrderedDict()
        self.changed: list[Callable[[], None]] = []
        self.define(())

    @property
    def decoders(self) -> Mapping[str, Decoder]:
        """By the names of their definitions, the built-in ones too."""
        return {decoder.definition.name: decoder for decoder in self._decoders}

    def define(self, definitions: Iterable[Definition]) -> None:
        """These count from now on, beside the built-in ones. What did not change keeps what it remembers."""
        self._by_content.clear()
        known = self.decoders
        wanted = [*definitions, *NATIVE]
        decoders = [
            before
            if (before := known.get(one.name)) is not None and before.definition.source == one.source
            else Decoder(one, self._limits, self.births)
            for one in wanted
        ]
        self._decoders = sorted(decoders, key=lambda one: (one.definition.filter.rank, *_lesser(one)), reverse=True)
        self.forget()

    def forget(self) -> None:
        """A device has another type now, or a definition is another."""
        self._remembered.clear()
        for changed in self.changed:
            changed()

    def route(self, topic: str, publisher: str) -> Destination | None:
        """What a message is telemetry of, None: of nothing. `publisher` is the device that sent it, "": none."""
        key = topic, publisher
        if key in self._remembered:
            return self._remembered[key]
        found = next((there for _, there in self.candidates(topic, publisher)), None)
        if len(topic) <= _TOPIC_LENGTH:
            self._remembered[key] = found
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return found

    def admitted(self, found: Destination, topic: str) -> Destination:
        """The destination of an accepted message: its stream is added to its device, or is beyond the limit."""
        why = self.known.admit(found.device, found.stream)
        return found if why is None else replace(found, exceeding=Exceeding(topic, why, found.decoder))

    def candidates(self, topic: str, publisher: str) -> Iterable[tuple[Definition, Destination]]:
        """All that a topic may mean, the most specific first."""
        for decoder in self._decoders:
            captured = decoder.definition.filter.match(topic)
            if captured is not None and (found := self._destination(decoder, topic, captured, publisher)):
                yield decoder.definition, found

    def reader(self, definition: Definition, device: str, topic: str) -> BoundDecoder:
        """What reads a message of a definition, also where that is plain JSON."""
        return BoundDecoder(self.decoders[definition.name], topic, device, {}, self._limits)

    def chosen(self, destination: Destination, topic: str, content_type: str) -> Destination:
        """The destination of a message whose sender named its format; one that is not known changes nothing."""
        name = CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower())
        bound = destination.decoder
        if name is None or name == (bound.decoder.definition.codec[-1] if bound is not None else "json"):
            return destination
        decoder = self._by_content_type(name, bound.decoder.definition if bound is not None else NATIVE[0])
        captured = bound.captured if bound is not None else {}
        return replace(
            destination, decoder=BoundDecoder(decoder, topic, destination.device, captured, self._limits, content_type)
        )

    def _by_content_type(self, name: str, definition: Definition) -> Decoder:
        key = f"{definition.name} {name}"
        known = self._by_content.get(key)
        if known is None:
            source = {**definition.source, "codec": name}
            known = self._by_content[key] = Decoder(from_object(definition.name, source), self._limits, self.births)
        return known

    def _destination(
        self, decoder: Decoder, topic: str, captured: Mapping[str, str], publisher: str
    ) -> Destination | None:
        definition = decoder.definition
        device = captured.get("device", publisher)
        if not device or len(device) > MAX_DEVICE_LENGTH:
            return None
        if definition.types and self._type_of(device) not in definition.types:
            return None
        stream = definition.stream.strip("/").format_map(captured)
        if "" in captured.values():  # the rest of the topic may be nothing, and then the slash beside it is none either
            stream = stream.strip("/") or DEFAULT_STREAM
        if decoder.plain:
            return Destination(device, stream)
        kept = {name: value for name, value in captured.items() if name not in {"device", "stream"} and value}
        for name, level in decoder.levels(topic).items():
            kept[free_name(name, kept)] = level
        return Destination(device, stream, BoundDecoder(decoder, topic, device, kept, self._limits))


def _lesser(decoder: Decoder) -> tuple[bool, bool, str]:
    """Between filters that are equally specific, what was defined goes before what is built in, one for types of
    devices before one for all, then the order of names.
    """
    definition = decoder.definition
    return definition not in NATIVE, bool(definition.types), definition.name


def check_among(definition: Definition, others: Iterable[Definition]) -> None:
    """Raise StreamError where one of the others leaves a definition, or a key of it, without effect."""
    for other in others:
        if other.name == definition.name:
            continue
        if _same_topics(definition, other):
            raise StreamError(
                f"stream {definition.name}: filter: stream {other.name} already has the topics of"
                f" {definition.filter.text}, for the same devices"
            )
        if definition.stream != other.stream:
            continue
        for key in ("keep_days", "keep_bytes", "keep_payload", "duplicates"):
            mine, theirs = definition.source.get(key), other.source.get(key)
            if mine is not None and theirs is not None and mine != theirs:
                known = f"stream {other.name} already sets {theirs!r} for {definition.stream!r}"
                raise StreamError(f"stream {definition.name}: {key}: {known}")


def _same_topics(one: Definition, other: Definition) -> bool:
    mine, others = one.filter, other.filter
    if mine.anonymous != others.anonymous or ("device" in mine.names) != ("device" in others.names):
        return False
    return bool(set(one.types) & set(other.types)) if one.types or other.types else True
