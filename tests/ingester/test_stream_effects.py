"""What a stream's definition says has an effect, or is refused with the key that has none."""

import base64

import pytest

from ingester.batch import Batch
from ingester.decode import Limits, readings, scan_batch
from ingester.history.rules import Rule, Rules
from ingester.streams import StreamError, Streams
from ingester.streams.definition import from_object, new_definition
from ingester.streams.table import check_among
from tests.ingester.test_protobuf import CLASSES, DESCRIBED, ZEROS

NOW = 1_795_391_000_000_000
PROTOBUF = {"codec": "protobuf", "descriptor": base64.b64encode(DESCRIBED).decode(), "message": "p.Three"}
BINARY = {"codec": "binary", "layout": "u32 when; u8 a"}


def read(payload: bytes, topic: str = "a/d", **given):
    """(time, fields) of each reading of a message, or the reason why it can't be read."""
    streams = Streams()
    streams.define([new_definition("x", {"filter": "a/{device}", **given})])
    found = streams.route(topic, "")
    assert found is not None
    batch = Batch()
    batch.append(found.device, found.stream, NOW, payload, found.decoder)
    if bad := scan_batch(batch, Limits()):
        return bad[0].reason
    kept = batch.decoded[0] if batch.decoded else None
    return [(one.time, one.fields) for one in readings(payload, NOW, Limits(), kept)]


def test_a_time_inside_an_object():
    """A field is named as it is stored, by the names of objects joined with dots."""
    payload = b'{"StatusSNS":{"Time":"2026-11-22T23:43:10","ENERGY":{"Power":5}}}'
    assert read(payload, time="StatusSNS.Time") == [(NOW - 10_000_000, {"StatusSNS.ENERGY.Power": 5})]
    assert read(b'{"a.t":1795390990,"v":1}', time="a.t") == [(NOW - 10_000_000, {"v": 1})]
    assert read(b'{"a":{"t":1795390990000},"v":1}', time={"field": "a.t", "unit": "ms"}) == [
        (NOW - 10_000_000, {"v": 1})
    ]
    assert read(b'{"a":{"t":"soon"}}', time="a.t") == "timestamp"
    assert read(b'{"a":{"x":1}}', time="a.t") == [(NOW, {"a.x": 1})]
    payload = CLASSES["Three"](inner={"x": 1_795_390_990}).SerializeToString()
    assert read(payload, time="inner.x", **PROTOBUF) == [(NOW - 10_000_000, ZEROS)]


def test_a_time_in_the_topic():
    """What the filter captures may be the time."""
    given = {"filter": "a/{device}/{when}", "time": "when"}
    assert read(b'{"v":1}', "a/d/1795390990", **given) == [(NOW - 10_000_000, {"v": 1})]
    assert read(b'{"v":1,"when":1795390980}', "a/d/1795390990", **given) == [
        (NOW - 20_000_000, {"v": 1, "when": "1795390990"})
    ]


def test_the_unit_of_line_protocol():
    """Its times are in the unit that the stream names."""
    assert read(b"m v=1 1795390990000", codec="line", time={"unit": "ms"}) == [(NOW - 10_000_000, {"m.v": 1.0})]
    assert read(b"m v=1,t=1795390990i", codec="line", time="m.t") == [(NOW - 10_000_000, {"m.v": 1.0})]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"layout": "u8 a"}, "layout: only codec binary"),
        ({"codec": "cbor", "message": "p.M"}, "message: only codec protobuf"),
        ({"descriptor": "AA=="}, "descriptor: only codec protobuf"),
        ({"callable": "mine"}, "callable: only codec python"),
        ({"codec": "text", "budget_ms": 5}, "budget_ms: only codec python"),
        ({"value_type": "text"}, "value_type: only codec text"),
        ({"codec": ["gzip", "json"], "layout": "u8 a"}, "layout: only"),
        ({"on_invalid": "mark"}, "on_invalid: 'mark' needs a schema"),
        ({"time": {"field": "", "unit": "ms"}}, "time: a unit needs a field"),
        ({"codec": "senml+json", "time": {"unit": "ms"}}, "time: the times of codec senml"),
        ({"codec": "sparkplug", "time": {"unit": "ns"}}, "time: the times of codec sparkplug"),
        ({"codec": "line", "time": {"unit": "iso"}}, "time: the times of codec line"),
        ({"codec": "line", "time": "t"}, "time: codec line makes no field 't'"),
        ({**BINARY, "time": "wen"}, "time: codec binary makes no field 'wen'"),
        ({**BINARY, "time": "when.x"}, "time: codec binary"),
        ({"codec": "text", "time": "t"}, "time: codec text makes no field 't'"),
        ({**PROTOBUF, "time": "inner.y"}, "time: codec protobuf"),
        ({**PROTOBUF, "time": "many.x"}, "time: codec"),
        ({**PROTOBUF, "time": "at.seconds"}, "time: codec"), ({**PROTOBUF, "time": "count.x"}, "time: codec"),
        ({**BINARY, "fields": {"b": {"unit": "m"}}}, "fields: codec binary makes no field 'b'"),
        ({"codec": "text", "fields": {"temperature": {"unit": "m"}}}, "fields: codec text"),
        ({"codec": "text", "value_type": "int"}, "value_type: 'int' is not one of"),
    ],
)  # fmt: skip
def test_a_key_without_effect(given: dict, key: str):
    """Refused where the definition is made, with its name; one of an older version goes on."""
    with pytest.raises(StreamError, match=f"stream x: {key}"):
        new_definition("x", {"filter": "a/{device}", **given})
    if "'int'" not in key and "callable" not in given:
        assert from_object("x", {"filter": "a/{device}", **given}).name == "x"


@pytest.mark.parametrize(
    "given",
    [
        {**BINARY, "time": {"field": "when",
        "unit": "s"}, "fields": {"a": {"unit": "m"}}}, {**PROTOBUF, "time": "inner.x"},
        {**PROTOBUF, "time": "at"},
        {**PROTOBUF, "time": "labels.when"}, {"codec": "line", "fields": {"m.v": {"unit": "m"}}}, {"codec": "text",
        "time": "value"},
        {"codec": "text", "fields": {"area": {"unit": "m"}, "topic.area": {}}, "filter": "a/{device}/{area}"},
        {"layout": "", "on_invalid": "quarantine", "time": "ts"}, {"codec": "senml+json", "time": {"field": "t",
        "unit": "s"}},
        {"codec": "json", "time": {"field": "t", "unit": "iso"}, "fields": {"x": {"unit": "m"}}},
    ],
)  # fmt: skip
def test_keys_with_an_effect(given: dict):
    """Whatever a reading may have, and what is not said."""
    assert new_definition("x", {"filter": "a/{device}", **given})


def test_what_is_defined_goes_before_what_is_built_in():
    """Whatever its name: the same topics are read as the definition says."""
    for name in ("a", "zzz"):
        streams = Streams()
        streams.define([from_object(name, {"filter": "devices/{device}/telemetry", "codec": "text"})])
        found = streams.route("devices/d/telemetry", "d")
        assert found is not None
        assert found.decoder is not None


@pytest.mark.parametrize(
    ("given", "other", "wrong"),
    [
        ({"filter": "a/{x}"}, {"filter": "a/{y}"}, "filter: stream other already has the topics of a/{x}"),
        ({"filter": "a/{x...}"}, {"filter": "a/#"}, "filter: "), ({"filter": "a/+"}, {"filter": "a/{y}"}, "filter: "),
        ({"filter": "a/{device}", "types": ["p", "q"]}, {"filter": "a/{device}", "types": ["q"]}, "filter: "),
        ({"filter": "a/{device}", "types": ["p"]}, {"filter": "a/{device}"}, None),
        ({"filter": "a/{device}", "types": ["p"]}, {"filter": "a/{device}", "types": ["q"]}, None),
        ({"filter": "a/{device}"}, {"filter": "a/{x}"}, None), ({"filter": "a/{x}"}, {"filter": "b/{x}"}, None),
        ({"filter": "a", "stream": "s", "keep_days": 3}, {"filter": "b", "stream": "s",
        "keep_days": 4}, "keep_days: stream other already sets 4 for 's'"),
        ({"filter": "a", "stream": "s", "duplicates": "drop"}, {"filter": "b", "stream": "s",
        "duplicates": "keep"}, "duplicates: "),
        ({"filter": "a", "stream": "s", "keep_days": 3}, {"filter": "b", "stream": "s", "keep_bytes": 4}, None),
        ({"filter": "a", "stream": "s", "keep_days": 3}, {"filter": "b", "stream": "t", "keep_days": 4}, None),
    ],
)  # fmt: skip
def test_a_definition_beside_another(given: dict, other: dict, wrong: str | None):
    """One that another hides is refused, and so is what two say differently of one stream."""
    definition = from_object("x", given)
    others = [definition, from_object("other", other)]
    if wrong is None:
        check_among(definition, others)
    else:
        with pytest.raises(StreamError, match=f"stream x: {wrong}"):
            check_among(definition, others)


def test_rules_of_a_stream():
    """A rule for the name counts before one with a star, key by key; one that says nothing hides nothing."""
    rules = Rules(
        (
            Rule("*"),
            Rule("*", keep_days=9, duplicates="drop"),
            Rule("vib*", keep_bytes=5),
            Rule("vibration", keep_days=3),
        )
    )
    assert rules.of("vibration") == Rule("vibration", None, 3, 5, "drop")
    assert rules.of("other") == Rule("other", None, 9, None, "drop")
    assert Rules().of("x").duplicates == "keep"
    assert rules.resolves
    assert Rules(keep_payload=True).keeps_payload("x")
    assert not Rules((Rule("x", False),), keep_payload=True).keeps_payload("x")
    assert not Rules((Rule("a"), Rule("b", duplicates="keep"))).resolves
