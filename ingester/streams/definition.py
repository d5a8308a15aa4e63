"""What is said of a stream: which topics, codec, schema and times, and how long it is kept. A value; pure."""

import base64
import binascii
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs

from ingester.codecs import CODECS, UNPACKERS, Codec, OptionError, Options
from ingester.errors import IngestError
from ingester.streams.filters import FilterError, TopicFilter, compile_filter

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TEMPLATE = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
UNITS = ("auto", "s", "ms", "us", "ns", "iso")
ON_INVALID = ("quarantine", "reject", "mark")
DUPLICATES = ("keep", "merge", "drop")
_DESCRIPTOR_BYTES = 1024 * 1024


class StreamError(IngestError):
    """A definition that can't be used; the message names the stream and the key."""


@dataclass(frozen=True, slots=True)
class TimeRule:
    """Where a reading's time is: in `field`, in `unit`; field "" means that the time of receipt counts."""

    field: str = "ts"
    unit: str = "auto"


@dataclass(frozen=True, slots=True)
class FieldNote:
    """What is said of a field."""

    unit: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """One stream. `source` is what it was read from; `from_object` says what the keys mean."""

    name: str
    filter: TopicFilter
    stream: str
    codec: tuple[str, ...] = ("json",)
    options: Options = field(default_factory=Options)
    types: tuple[str, ...] = ()
    time: TimeRule = field(default_factory=TimeRule)
    schema: Mapping[str, Any] | None = None
    on_invalid: str = "quarantine"
    fields: Mapping[str, FieldNote] = field(default_factory=dict)
    keep_days: float | None = None
    keep_bytes: int | None = None
    keep_payload: bool | None = None
    duplicates: str = "keep"
    source: Mapping[str, Any] = field(default_factory=dict)


def from_object(name: str, given: Mapping[str, Any]) -> Definition:
    """Read a definition, as settings and the API have it. Raises StreamError. See `new_definition`.

    Keys: `filter` (needed), `codec` (one, or a list with gzip or zstd before it), `stream` (its name, with captured
    parts, by default the definition's), `types` (of devices), `layout`, `descriptor` (base64), `message`, `callable`,
    `budget_ms`, `value_type`, `time` (a field, {field, unit}, or "received"), `schema` (JSON Schema), `on_invalid`,
    `fields` ({name: {unit, description}}), `keep_days`, `keep_bytes`, `keep_payload`, `duplicates`.
    """
    if not _NAME.fullmatch(name):
        raise StreamError(f"stream {name[:100]!r}: a name is 1 to 64 letters, digits, '.', '_', '-'")
    try:
        return _read(name, dict(given))
    except (FilterError, _WrongError, OptionError) as error:
        raise StreamError(f"stream {name}: {error}") from None


def new_definition(name: str, given: Mapping[str, Any]) -> Definition:
    """The same of one that is made now: a key that can have no effect beside the others is an error too.

    One that was made by an older version goes on as it is.
    """
    definition = from_object(name, given)
    try:
        _check_effect(definition, CODECS[definition.codec[-1]](definition.options))
    except _WrongError as error:
        raise StreamError(f"stream {name}: {error}") from None
    return definition


_UNSAID: tuple[Any, ...] = ("", [], {}, None)
"""As settings and forms have what is not said."""


class _WrongError(ValueError):
    """A key with a value that can't be."""


def _read(name: str, given: dict[str, Any]) -> Definition:
    for key in given:
        if key not in _READERS:
            near = difflib.get_close_matches(key, _READERS, 1)
            raise _WrongError(f"unknown key {key[:50]!r}" + (f": is it {near[0]!r}?" if near else ""))
    if "filter" not in given:
        raise _WrongError("filter: is needed, such as devices/{device}/telemetry/vibration")
    read = {key: _READERS[key](key, value) for key, value in given.items() if value not in _UNSAID}
    filter_ = _filter(read.pop("filter"))
    budget = read.pop("budget_ms", None)
    options: dict[str, Any] = {
        key: read.pop(key) for key in ("layout", "descriptor", "message", "callable", "value_type") if key in read
    }
    if "time" in read:
        options["time_unit"] = read["time"].unit
    if budget is not None:
        options["budget_seconds"] = budget / 1000
    definition = Definition(
        name, filter_, _stream(read.pop("stream", name), filter_), options=Options(**options), source=given, **read
    )
    if definition.on_invalid == "reject" and definition.codec[-1] == "sparkplug":
        raise _WrongError("on_invalid: Sparkplug messages are read once, in their order, and not rejected one by one")
    CODECS[definition.codec[-1]](definition.options)  # its options have to make sense
    return definition


_OPTION_OF = {
    "layout": "binary", "descriptor": "protobuf", "message": "protobuf", "callable": "python", "budget_ms": "python",
    "value_type": "text",
}  # fmt: skip
"""Keys that one codec reads only."""
OWN_TIMES = {"senml+json", "senml+cbor", "sparkplug"}
"""Codecs of formats that have times, in a unit of their own."""


def _check_effect(definition: Definition, codec: Codec) -> None:
    """Raise _WrongError for a key that can have no effect beside the others."""
    given = {key for key, value in definition.source.items() if value not in _UNSAID}
    name = definition.codec[-1]
    for key, owner in _OPTION_OF.items():
        if key in given and name != owner:
            raise _WrongError(f"{key}: only codec {owner} reads it, and the codec is {name}")
    if definition.schema is None and definition.on_invalid != "quarantine":
        raise _WrongError(f"on_invalid: {definition.on_invalid!r} needs a schema")
    _check_time(definition, codec)
    for field_name in definition.fields:
        if not _may_have(codec, field_name, name) and field_name.removeprefix("topic.") not in definition.filter.names:
            raise _WrongError(f"fields: codec {name} makes no field {field_name[:100]!r} with this definition")


def _check_time(definition: Definition, codec: Codec) -> None:
    rule, name = definition.time, definition.codec[-1]
    if rule.field == "" and rule.unit != "auto":
        raise _WrongError("time: a unit needs a field; the time of receipt has none")
    if rule.unit not in {"auto", "s"} and name in OWN_TIMES:
        raise _WrongError(f"time: the times of codec {name} are in a unit of their own, not in {rule.unit!r}")
    if rule.unit == "iso" and name == "line":
        raise _WrongError("time: the times of codec line are numbers, not 'iso'")
    if rule.field in {"", "ts"} or rule.field in definition.filter.names:
        return
    if not _may_have(codec, rule.field, name):
        raise _WrongError(f"time: codec {name} makes no field {rule.field[:100]!r} with this definition")


def _may_have(codec: Codec, field_name: str, name: str) -> bool:
    """Whether a reading of this codec may have such a field."""
    if name == "line" and "." not in field_name:
        return False  # measurement.field
    if name == "text":
        return field_name == "value"
    has: Callable[[str], bool] | None = getattr(codec, "has", None)
    return has is None or has(field_name)


def _filter(text: str) -> TopicFilter:
    try:
        return compile_filter(text)
    except FilterError as error:
        raise _WrongError(f"filter: {error}") from None


def _stream(template: str, topic_filter: TopicFilter) -> str:
    for captured in _TEMPLATE.findall(template):
        if captured not in topic_filter.names:
            raise _WrongError(f"stream: {{{captured}}} is not in the filter")
    if re.search(r"[{}+#\0]", _TEMPLATE.sub("", template)) or not template:
        raise _WrongError(f"stream: {template[:100]!r} is no name of a stream")
    return template


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _WrongError(f"{key}: a text is wanted")
    return value


def _codec(key: str, value: Any) -> tuple[str, ...]:
    chain = tuple(value.split()) if isinstance(value, str) else value
    if not isinstance(chain, list | tuple) or not chain or not all(isinstance(step, str) for step in chain):
        raise _WrongError(f"{key}: a name is wanted, or a list of names")
    *wrappings, last = chain
    for wrapping in wrappings:
        if wrapping not in UNPACKERS:
            raise _WrongError(f"{key}: {wrapping[:50]!r} does not wrap anything; known are {', '.join(UNPACKERS)}")
    if last not in CODECS:
        raise _WrongError(f"{key}: no codec {last[:50]!r}; known are {', '.join(CODECS)}")
    return tuple(chain)


def _types(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise _WrongError(f"{key}: a list of device types is wanted")
    return tuple(value)


def _descriptor(key: str, value: Any) -> bytes:
    try:
        data = base64.b64decode(_text(key, value), validate=True)
    except binascii.Error:
        raise _WrongError(f"{key}: not base64") from None
    if len(data) > _DESCRIPTOR_BYTES:
        raise _WrongError(f"{key}: {len(data)} bytes, the limit is {_DESCRIPTOR_BYTES}")
    return data


def _time(key: str, value: Any) -> TimeRule:
    if value == "received":
        return TimeRule("", "auto")
    given = {"field": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or set(given) - {"field", "unit"} or not isinstance(given.get("field", ""), str):
        raise _WrongError(f"{key}: a field's name, {{field, unit}}, or 'received' is wanted")
    unit = given.get("unit", "auto")
    if unit not in UNITS:
        raise _WrongError(f"{key}: unit {unit!r} is none of {', '.join(UNITS)}")
    return TimeRule(given.get("field", "ts"), unit)


def _schema(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _WrongError(f"{key}: a JSON Schema (an object) is wanted")
    try:
        validator_of(value)
    except ValueError as error:
        raise _WrongError(f"{key}: not a JSON Schema: {str(error).splitlines()[0][:200]}") from None
    return value


def validator_of(schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
    """Compile a JSON Schema. Raises ValueError. Nothing is fetched, and no expression takes more than linear time."""
    return jsonschema_rs.validator_for(dict(schema), offline=True, pattern_options=jsonschema_rs.RegexOptions())


def _fields(key: str, value: Any) -> Mapping[str, FieldNote]:
    if not isinstance(value, Mapping):
        raise _WrongError(f"{key}: an object of {{name: {{unit, description}}}} is wanted")
    found = {}
    for name, note in value.items():
        wrong = not isinstance(note, Mapping) or set(note) - {"unit", "description"}
        if wrong or not all(isinstance(text, str) and len(text) <= 1000 for text in note.values()):
            raise _WrongError(f"{key}: {name[:50]!r}: {{unit, description}} are wanted, both text")
        found[name] = FieldNote(**note)
    return found


def _one_of(*words: str) -> Callable[[str, Any], str]:
    def read(key: str, value: Any) -> str:
        if value not in words:
            raise _WrongError(f"{key}: {value!r} is none of {', '.join(words)}")
        return str(value)

    return read


def _number(least: float, most: float, kind: type[int] | type[float] = float) -> Callable[[str, Any], Any]:
    def read(key: str, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise _WrongError(f"{key}: a number from {least:g} to {most:g} is wanted")
        return kind(value)

    return read


def _switch(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _WrongError(f"{key}: true or false is wanted")
    return value


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "filter": _text,
    "codec": _codec,
    "stream": _text,
    "types": _types,
    "layout": _text,
    "descriptor": _descriptor,
    "message": _text,
    "callable": _text,
    "budget_ms": _number(0.1, 1000),
    "value_type": _text,
    "time": _time,
    "schema": _schema,
    "on_invalid": _one_of(*ON_INVALID),
    "fields": _fields,
    "keep_days": _number(0, 36_500),
    "keep_bytes": _number(0, 2**60, int),
    "keep_payload": _switch,
    "duplicates": _one_of(*DUPLICATES),
}
