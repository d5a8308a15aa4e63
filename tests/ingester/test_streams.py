"""Streams: which topics mean what, which definition counts, and what it makes of a message."""

import base64

import cbor2
import orjson
import pytest

from ingester.batch import Batch
from ingester.decode import DecodeError, Limits, readings, scan_batch
from ingester.streams import StreamError, Streams
from ingester.streams.definition import from_object
from ingester.streams.filters import FilterError, compile_filter
from ingester.streams.trial import try_codecs
from tests.ingester.test_codecs import all_of_protobuf

NOW = 1_795_391_000_000_000
BUILT_IN = {"native", "native-streams"}


def table(types=None, **definitions) -> Streams:
    streams = Streams(Limits(), lambda device: (types or {}).get(device, ""))
    streams.define([from_object(name.replace("_", "-"), given) for name, given in definitions.items()])
    return streams


def decoded(streams: Streams, topic: str, payload: bytes, device: str = ""):
    """(time, fields, marks) of each reading, or the reason why it can't be read."""
    found = streams.route(topic, device)
    assert found is not None
    batch = Batch()
    batch.append(found.device, found.stream, NOW, payload, found.decoder)
    bad = scan_batch(batch, Limits())
    if bad:
        return bad[0].reason
    kept = batch.decoded[0] if batch.decoded else None
    return [(reading.time, reading.fields, reading.marks) for reading in readings(payload, NOW, Limits(), kept)]


@pytest.mark.parametrize(
    ("text", "topic", "expected"),
    [
        ("a/{x}/c", "a/b/c", {"x": "b"}),
        ("a/{x}/c", "a/b/d", None),
        ("a/{x}/c", "a//c", None),
        ("a/+/c", "a//c", {}),
        ("a/#", "a", {}),
        ("a/#", "ab", None),
        ("a/{rest...}", "a/b/c", {"rest": "b/c"}),
        ("a/{rest...}", "a", {"rest": ""}),
        ("#", "a/b", {}),
        ("#", "devices/a/shadow", None),
        ("#", "devices/a/telemetry", None),
        ("#", "$SYS/x", None),
        ("+/x", "provision/x", None),
        ("devices/{device}/telemetry/#", "devices/a/telemetry/x", {"device": "a"}),
        ("a.c", "abc", None),
        ("a/{x}", "a/\n", {"x": "\n"}),
    ],
)
def test_filters(text, topic, expected):
    """Levels are captured by name; what belongs to the server is nobody's telemetry."""
    assert compile_filter(text).match(topic) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a/#/b", "a/{x...}/b", "a/{x}/{x}", "a/x{y}", "a/{X}", "a/b#", "$SYS/#", "provision/x", "devices/+/shadow",
     "x" * 2000, "a\0"],
)  # fmt: skip
def test_filters_that_cannot_be(text):
    """Each says why."""
    with pytest.raises(FilterError):
        compile_filter(text)


def test_without_definitions():
    """The native topics, plain."""
    streams = Streams()
    for topic, stream in (("devices/a/telemetry", "default"), ("devices/a/telemetry/x/y", "x/y")):
        found = streams.route(topic, "b")
        assert (found.device, found.stream, found.decoder) == ("a", stream, None)
    for topic in ("devices/a/telemetryx", "devices//telemetry", "x", "devices/a/shadow"):
        assert streams.route(topic, "a") is None


def test_the_most_specific_filter_counts():
    """Text before a name, a name before the rest, level by level; then the one for types of devices; then the name."""
    streams = table(
        {"a": "pump"},
        all={"filter": "#"},
        plant={"filter": "plant/{device}/#"},
        pumps={"filter": "plant/{device}/#", "types": ["pump"]},
        one={"filter": "plant/a/temperature"},
        vibration={"filter": "devices/{device}/telemetry/vibration", "codec": "cbor"},
    )

    def chosen(topic: str, device: str = "me") -> tuple[str, str] | None:
        found = streams.route(topic, device)
        return None if found is None else (found.device, found.stream)

    assert chosen("x/y") == ("me", "all")
    assert chosen("x/y", "") is None
    assert chosen("plant/b/x") == ("b", "plant")
    assert chosen("plant/a/x") == ("a", "pumps")
    assert chosen("plant/a/temperature") == ("me", "one")
    assert chosen("devices/a/telemetry") == ("a", "default")
    assert chosen("devices/a/telemetry/vibration") == ("a", "vibration")
    assert streams.route("devices/a/telemetry/vibration", "a").decoder.codec == "cbor"
    assert [definition.name for definition, _ in streams.candidates("plant/a/temperature", "me")] == [
        "one", "pumps", "plant", "all",
    ]  # fmt: skip
    streams.define([])
    assert chosen("x/y") is None


def test_what_did_not_change_remembers():
    """Births of Sparkplug nodes outlive a change of another stream; whoever was told of routes hears of each change."""
    told = []
    streams = table(a={"filter": "a/#", "codec": "sparkplug"}, b={"filter": "b/#"})
    streams.changed.append(lambda: told.append(1))
    before = streams.decoders
    assert [before[name].remembers for name in "ab"] == [True, False]
    streams.define([from_object("a", {"filter": "a/#", "codec": "sparkplug"}), from_object("b", {"filter": "b/x"})])
    assert streams.decoders["a"] is before["a"]
    assert streams.decoders["b"] is not before["b"]
    assert set(streams.decoders) == {"a", "b", *BUILT_IN}
    assert told == [1]


def test_captured_parts_and_names_of_streams():
    """What is captured beside device and stream is a field, and may be in the stream's name."""
    streams = table(
        site={"filter": "plant/{area}/{device}/{kind...}", "stream": "{area}/{kind}"},
        long={"filter": "long/{x...}", "stream": "{x}"},
    )
    found = streams.route("plant/north/p1/temp/in", "")
    assert (found.device, found.stream) == ("p1", "north/temp/in")
    assert decoded(streams, "plant/north/p1/temp", b'{"v": 1}') == [
        (NOW, {"v": 1, "area": "north", "kind": "temp"}, ())
    ]
    assert decoded(streams, "plant/north/p1/temp", b'{"v": 1, "area": "own"}')[0][1]["area"] == "own"
    assert streams.route("plant/north/p1", "").stream == "north"
    for rest in ("/", "//", "a/", "/a", "a//b", "/*/"):  # levels without a name are levels
        assert streams.route(f"devices/d/telemetry/{rest}", "").stream == rest
        assert streams.route(f"plant/north/p1/{rest}", "").stream == f"north/{rest}"
    assert streams.route("devices/d/telemetry/", "").stream == "default"
    assert len(streams.route("long/" + "x" * 1000, "d").stream) == 1000


@pytest.mark.parametrize(
    ("rule", "payload", "expected"),
    [
        ({"field": "t", "unit": "s"}, {"t": 1795390000}, 1_795_390_000_000_000),
        ({"field": "t", "unit": "s"}, {"t": 1795390000.5}, 1_795_390_000_500_000),
        ({"field": "t", "unit": "ms"}, {"t": 1795390000123}, 1_795_390_000_123_000),
        ({"field": "t", "unit": "us"}, {"t": 1795390000123456}, 1_795_390_000_123_456),
        ({"field": "t", "unit": "ns"}, {"t": 1795390000123456789}, 1_795_390_000_123_456),
        ({"field": "t", "unit": "iso"}, {"t": "2026-11-22T00:00:00Z"}, 1_795_305_600_000_000),
        ("t", {"t": 1795390000}, 1_795_390_000_000_000),
        ("t", {"ts": 1}, NOW),
        ("received", {"ts": 1795390000}, NOW),
        ({"field": "t", "unit": "s"}, {"t": "x"}, "timestamp"),
        ({"field": "t", "unit": "iso"}, {"t": 5}, "timestamp"),
        ({"field": "t", "unit": "s"}, {"t": 1e30}, "timestamp"),
        ({"field": "t", "unit": "s"}, {"t": True}, "timestamp"),
    ],
)
def test_times(rule, payload, expected):
    """The field that the rule names, in its unit; the time of receipt where it is not there, or is what counts."""
    found = decoded(table(s={"filter": "t", "time": rule}), "t", orjson.dumps(payload), "d")
    assert (found if isinstance(found, str) else found[0][0]) == expected


def test_schemas():
    """What a schema does not allow goes to quarantine, is marked, or is not taken, with the place."""
    schema = {"type": "object", "required": ["v"], "properties": {"v": {"type": "number", "maximum": 5}}}
    streams = table(
        q={"filter": "q", "schema": schema},
        m={"filter": "m", "schema": schema, "on_invalid": "mark", "codec": "cbor"},
        r={"filter": "r", "schema": schema, "on_invalid": "reject"},
    )
    assert decoded(streams, "q", b'{"v": 1}', "d") == [(NOW, {"v": 1}, ())]
    assert decoded(streams, "q", b'{"v": 9}', "d") == "schema"
    assert decoded(streams, "m", cbor2.dumps([{"v": 9}, {"v": 1}]), "d") == [
        (NOW, {"v": 9}, ("schema",)),
        (NOW, {"v": 1}, ()),
    ]
    found = streams.route("r", "d")
    assert found.rejects
    assert found.invalid(b'{"v": 9}', NOW) == "v: 9 is greater than the maximum of 5"
    assert found.invalid(b'{"w": 9}', NOW).startswith("the payload: ")
    assert found.invalid(b'{"v": 1}', NOW) is None
    assert found.invalid(b"not json", NOW) is None
    assert streams.route("q", "d").invalid(b'{"v": 9}', NOW) is None


def test_wrapped_codecs_and_content_types():
    """gzip around CBOR; what the sender says of the format goes before the definition, as far as it is known."""
    import gzip

    streams = table(z={"filter": "z", "codec": ["gzip", "cbor"]}, c={"filter": "c/{x}", "codec": "cbor"})
    assert decoded(streams, "z", gzip.compress(cbor2.dumps({"v": 1})), "d") == [(NOW, {"v": 1}, ())]
    assert decoded(streams, "z", b"plain", "d") == "compressed"
    found = streams.route("c/1", "d")
    assert streams.chosen(found, "c/1", "image/png") is found
    assert streams.chosen(found, "c/1", "application/cbor") is found
    as_json = streams.chosen(found, "c/1", "application/JSON; charset=utf-8")
    assert orjson.loads(as_json.decoder.decode(b'{"v":1}', NOW).kept) == [[NOW, {"v": 1, "x": "1"}]]
    plain = streams.route("devices/a/telemetry", "a")
    assert streams.chosen(plain, "devices/a/telemetry", "application/json") is plain
    as_cbor = streams.chosen(plain, "devices/a/telemetry", "application/cbor")
    assert orjson.loads(as_cbor.decoder.decode(cbor2.dumps({"v": 1}), NOW).kept) == [[NOW, {"v": 1}]]
    assert (as_cbor.decoder.codec, as_cbor.decoder.content_type) == ("cbor", "application/cbor")


def test_a_batch_of_many_formats():
    """Each message is read by its own decoder; what can't be read is named by its place."""
    streams = table(c={"filter": "c", "codec": "cbor"})
    bound = streams.route("c", "d").decoder
    batch, other = Batch(), Batch()
    batch.append("d", "x", NOW, b'{"ts":1795390000}')
    batch.append("d", "c", NOW, cbor2.dumps({"v": 1}), bound)
    batch.append("d", "c", NOW, b"\xff", bound)
    batch.append("d", "x", NOW, b"bad")
    bad = scan_batch(batch, Limits())
    assert [(entry.position, entry.reason, entry.decoder) for entry in bad] == [
        (2, "codec", bound),
        (3, "not_json", None),
    ]
    assert batch.times == [1_795_390_000_000_000, NOW, NOW, NOW]
    assert [kept is not None for kept in batch.decoded] == [False, True, False, False]
    rest = batch.without({2, 3})
    other.append("d", "x", NOW, b"{}")
    scan_batch(other, Limits())
    other.extend(rest)
    assert [kept is not None for kept in other.decoded] == [False, False, True]
    assert [kept is not None for kept in other.slice(1, 3).decoded] == [False, True]
    late = Batch()
    late.append("d", "x", NOW, b"{}")
    second = Batch()
    second.append("d", "c", NOW, cbor2.dumps({}), bound)
    late.extend(second)
    assert late.runs == [(1, 2, bound)]


def test_an_empty_payload_is_a_message_of_some_formats():
    """Where zeros are left out; nowhere else."""
    descriptor = base64.b64encode(all_of_protobuf()[0]).decode()
    streams = table(
        zeros={"filter": "z", "codec": "protobuf", "descriptor": descriptor, "message": "pkg.All"},
        words={"filter": "w", "codec": "text"},
    )
    topics = ("z", "w", "devices/a/telemetry")
    assert [streams.route(topic, "a").takes_empty(NOW) for topic in topics] == [True, False, False]


def test_trials():
    """All definitions that match, the one that counts first, then every codec by itself; nothing is remembered."""
    streams = table(s={"filter": "s/#", "codec": "cbor"}, all={"filter": "#"})
    found = try_codecs(streams, "s/x", "d", "", cbor2.dumps({"v": {"w": 1}}), NOW)
    assert [(one.definition, one.codec, one.chosen, one.reason) for one in found[:2]] == [
        ("s", "cbor", True, None), ("all", "json", False, "utf8"),
    ]  # fmt: skip
    assert found[0].readings == [(NOW, {"v.w": 1}, ())] or found[0].readings == [(None, {"v.w": 1}, ())]
    alone = {one.codec: one.reason for one in found[2:]}
    assert alone["cbor"] is None
    assert alone["senml+json"] == "utf8"
    assert "binary" not in alone
    (chosen, *_) = try_codecs(streams, "s/x", "d", "application/json", b'{"a":1}', NOW)
    assert (chosen.codec, chosen.readings[0].fields) == ("json", {"a": 1})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "filter: is needed"),
        ({"filter": "a/#/b"}, "filter: '#' has to be the last level"),
        ({"filter": 5}, "filter: a text"),
        ({"filter": "a", "codek": "json"}, "is it 'codec'"),
        ({"filter": "a", "zzz": 1}, "unknown key 'zzz'"),
        ({"filter": "a", "codec": "xml"}, "no codec 'xml'; known are json"),
        ({"filter": "a", "codec": ["json", "cbor"]}, "'json' does not wrap"),
        ({"filter": "a", "codec": 5}, "codec: a name"),
        ({"filter": "a", "codec": "binary"}, "layout"),
        ({"filter": "a", "codec": "binary", "layout": "u7 x"}, "layout: 'u7 x'"),
        ({"filter": "a", "codec": "protobuf", "descriptor": "%"}, "descriptor: not base64"),
        ({"filter": "a", "codec": "python", "callable": "none"}, "callable: no entry point 'none'"),
        ({"filter": "a", "stream": "{b}"}, "stream: {b} is not in the filter"),
        ({"filter": "a", "stream": "x#"}, "no name of a stream"),
        ({"filter": "a", "types": "pump"}, "types: a list"),
        ({"filter": "a", "time": {"unit": "h"}}, "unit 'h'"),
        ({"filter": "a", "time": 5}, "time: a field's name"),
        ({"filter": "a", "schema": {"type": "nope"}}, "schema: not a JSON Schema"),
        ({"filter": "a", "schema": {"$ref": "http://127.0.0.1:1/x"}}, "schema: not a JSON Schema"),
        ({"filter": "a", "schema": 5}, "schema: a JSON Schema"),
        ({"filter": "a", "on_invalid": "drop"}, "on_invalid: 'drop'"),
        ({"filter": "a", "codec": "sparkplug", "on_invalid": "reject"}, "on_invalid: Sparkplug"),
        ({"filter": "a", "fields": {"x": {"units": "m"}}}, "fields: 'x'"),
        ({"filter": "a", "fields": 5}, "fields: an object"),
        ({"filter": "a", "keep_days": -1}, "keep_days: a number"),
        ({"filter": "a", "keep_payload": "yes"}, "keep_payload: true or false"),
        ({"filter": "a", "duplicates": "x"}, "duplicates: 'x'"),
        ({"filter": "a", "descriptor": "QUFB" * 500_000}, "descriptor: 1500000 bytes"),
    ],
)
def test_definitions_that_cannot_be(given, words):
    """One line that names the stream, the key and the value."""
    with pytest.raises(StreamError) as caught:
        from_object("x", given)
    assert str(caught.value).startswith("stream x: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "x" * 65, "-a"])
def test_names_that_cannot_be(name):
    """A name is a word."""
    with pytest.raises(StreamError, match="a name is"):
        from_object(name, {"filter": "a"})


def test_what_is_remembered_is_bounded(monkeypatch):
    """Ever new topics do not fill the memory; what was chosen by content types is made once."""
    monkeypatch.setattr("ingester.streams.table._REMEMBERED", 3)
    streams = table(s={"filter": "s/#", "codec": "cbor"})
    for number in range(10):
        streams.route(f"s/{number}", "d")
    assert len(streams._remembered) == 3
    found = streams.route("s/1", "d")
    chosen = [streams.chosen(found, "s/1", "text/plain").decoder.decoder for _ in range(2)]
    assert chosen[0] is chosen[1]


def test_options_reach_the_codec():
    """Each key of a definition is read as what it says."""
    given = {
        "filter": "a", "codec": "json", "budget_ms": 5, "fields": {"t": {"unit": "m", "description": "how far"}},
        "keep_days": 3, "keep_bytes": 5.0, "keep_payload": True, "types": ["x"], "descriptor": "QUFB",
    }  # fmt: skip
    found = from_object("x", given)
    assert (found.options.budget_seconds, found.options.descriptor) == (0.005, b"AAA")
    assert (found.fields["t"].unit, found.fields["t"].description) == ("m", "how far")
    assert (found.keep_days, found.keep_bytes, found.keep_payload, found.types) == (3.0, 5, True, ("x",))


def test_limits_hold_for_every_format():
    """A payload that is too large is not looked at; units come from who knows them."""
    streams = Streams(Limits(max_bytes=5))
    streams.define([from_object("t", {"filter": "t", "codec": "text"})])
    found = streams.route("t", "d")
    with pytest.raises(DecodeError) as caught:
        found.decoder.decode(b"123456", NOW)
    assert caught.value.reason == "size"
    assert streams.decoders["t"].units == {}
