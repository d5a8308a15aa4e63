"""What streams and codecs would make of a payload: for people who want to know before their devices do."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from ingester.codecs import CODECS, Codec, Context, OptionError, Options, Parsed
from ingester.decode import DecodeError, flatten
from ingester.streams.table import Streams


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one try: by a definition, or by a codec alone (`definition` is None).

    `chosen`: this is what would count for the message. `reason` and `detail` say why it can't be read.
    """

    stream: str | None
    definition: str | None
    codec: str
    chosen: bool = False
    reason: str | None = None
    detail: str | None = None
    readings: list[Parsed] = field(default_factory=list)


def try_codecs(
    streams: Streams, topic: str, device: str, content_type: str, payload: bytes, received: int
) -> list[Trial]:
    """Every definition that the topic matches, the most specific first, and then every codec that needs no options."""
    found: list[Trial] = []
    for definition, destination in streams.candidates(topic, device):
        if content_type:
            destination = streams.chosen(destination, topic, content_type)  # noqa: PLW2901 - what its sender chose
        bound = destination.decoder or streams.reader(definition, destination.device, topic)
        trial = Trial(destination.stream, definition.name, bound.codec, chosen=not found)
        found.append(_tried(trial, partial(bound.parse, payload, received, trial=True)))
    context = Context(topic, device, received, trial=True)
    for name, make in CODECS.items():
        try:
            codec = make(Options())
        except OptionError:
            continue  # it can't be tried without them; with them it is part of a definition
        trial = Trial(None, None, name)
        found.append(_tried(trial, partial(_flat, codec, payload, context)))
    return found


def _tried(trial: Trial, read: Callable[[], list[Parsed]]) -> Trial:
    try:
        return replace(trial, readings=read())
    except DecodeError as error:
        return replace(trial, reason=error.reason, detail=str(error))


def _flat(codec: Codec, payload: bytes, context: Context) -> list[Parsed]:
    return [Parsed(time, flatten(fields, None), marks) for time, fields, marks in codec.parse(payload, context)]
