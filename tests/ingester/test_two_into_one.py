"""Two values never become one without a word: an error, or both are kept, whatever the format."""

import cbor2
import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingester.decode import DecodeError, Limits, flatten, parse, readings, scan, stored_readings
from ingester.streams.decoder import BoundDecoder, Decoder
from ingester.streams.definition import from_object

NOW = 1_795_391_000_000_000
LIMITS = Limits()


def decoder(captured=None, **given) -> BoundDecoder:
    definition = from_object("x", {"filter": "{a}/{b}/{device}", **given})
    return BoundDecoder(Decoder(definition, LIMITS), "x", "d", captured or {}, LIMITS)


TWICE = [
    b'{"a.b":1,"a":{"b":2}}', b'{"a":{"b":2},"a.b":1}', b'{"a.b": 1, "a": {"b": 2}}', b'{"a.b":[1],"a":{"b":2}}',
    b'{"a.b":1,"a":{"b":[2]}}', b'{"x":{"a.b":1,"a":{"b":2}}}', b'{"a.b":{"c":1},"a":{"b.c":2}}',
    b'{"a.b":{"c":1},"a":{"b":{"c":2}}}', b'{"a\\u002eb":1,"a":{"b":2}}', b'{"1.2":1,"1":{"2":2}}',
    b'{"v1.2":1.5,"v1":{"2":2.5}}', b'{"":{"a":1},".a":2}', b'{"a":{"":1},"a.":2}', b'{".":1,"":{"":2}}',
    b'{"a.b":null,"a":{"b":2}}', b'{"ts":1795391000,"a.b":1,"a":{"b":2}}', b'[{"v":1},{"a.b":1,"a":{"b":2}}]',
    b'{"a":1,"a":2}', b'{"a":{"b":1},"a":{"c":2}}', b'{"ts":1,"ts":2}', b'{"a":1,"\\u0061":2}', b'{"a":1, "a" :":"}',
    b'{"l":[{"a":1,"a":2}]}', b'{"a.b":"::","a":{"b":"::"}}', b'{"a.b":{"":1},"a.b.":2}',
    '{"\u00e4.b":1,"\u00e4":{"b":2}}'.encode(),
]  # fmt: skip


@pytest.mark.parametrize("payload", TWICE)
def test_json(payload: bytes):
    """A name twice in an object, and names that are one when they are joined; the quick look sees it too."""
    with pytest.raises(DecodeError) as caught:
        parse(payload, LIMITS)
    assert caught.value.reason == "duplicate_key"
    assert [bad.reason for bad in scan([payload], [NOW], LIMITS)[2]] == ["duplicate_key"]
    with pytest.raises(DecodeError):
        decoder(codec="json", time="t").parse(payload, NOW)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"a.b":1,"a":{"c":2}}', {"a.b": 1, "a.c": 2}), (b'{"a.b":1,"a":2}', {"a.b": 1, "a": 2}),
        (b'{"a":{},"a.b":1}', {"a.b": 1}), (b'{"a.b":1,"l":[{"a":{"b":2}}]}', {"a.b": 1, "l": '[{"a":{"b":2}}]'}),
        (b'{"ts":1795391000,"a":{"ts":2}}', {"a.ts": 2}), (b'{"v1.2":1.5,"v1":{"3":2.5}}', {"v1.2": 1.5, "v1.3": 2.5}),
        ('{"\u00e9":1,"e\u0301":2}'.encode(), {"\u00e9": 1, "e\u0301": 2}), (b'{"a":1,"A":2}', {"a": 1, "A": 2}),
        (b'{"":1}', {"": 1}), (b'{"x":{"y":"a.b"},"z":21.5}', {"x.y": "a.b", "z": 21.5}),
    ],
)  # fmt: skip
def test_what_is_not_the_same_is_kept(payload: bytes, expected: dict):
    """Names that only look alike, and dots that are part of values."""
    assert scan([payload], [NOW], LIMITS)[2] == []
    (found,) = readings(payload, NOW, LIMITS)
    assert found.fields == expected


names = st.text(alphabet='a1.\u00e4\\"', max_size=3)
objects = st.recursive(
    st.integers(0, 99) | st.just(1.5) | st.sampled_from(["a.b", 'x":', "::"]),
    lambda inner: st.dictionaries(names, inner, max_size=4) | st.lists(inner, max_size=2),
    max_leaves=12,
)


@given(st.dictionaries(names, objects, max_size=5), st.booleans())
def test_no_value_vanishes(item: dict, spaced: bool):
    """Any object: as many fields as values, or an error; the quick look and the thorough one agree."""
    payload = orjson.dumps(item, option=orjson.OPT_INDENT_2 if spaced else 0)
    item.pop("ts", None)
    try:
        fields = flatten(item)
    except DecodeError:
        fields = None
    bad = [entry.reason for entry in scan([payload], [NOW], LIMITS)[2]]
    if fields is None:
        assert bad == ["duplicate_key"]
    else:
        assert bad == []
        assert len(fields) == _leaves(item)


def _leaves(item: dict) -> int:
    return sum(_leaves(value) if isinstance(value, dict) else 1 for value in item.values())


def test_what_was_stored_before_is_still_read():
    """A journal of an older version may hold such messages."""
    (found,) = stored_readings(b'{"a.b":1,"a":{"b":2}}', NOW, None)
    assert found.fields == {"a.b": 2}
    (found,) = stored_readings(b'{"ts":"20261122T234320Z","a":1}', NOW, None)
    assert (found.time, found.plausible) == (NOW, True)


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        ("cbor", cbor2.dumps({"a.b": 1, "a": {"b": 2}})), ("cbor", cbor2.dumps({1: 1, "1": 2})),
        ("cbor", cbor2.dumps({b"k": 1, "k": 2})), ("cbor", bytes.fromhex("a2616101616102")),
        ("cbor", cbor2.dumps({"x": {1.5: 1, "1.5": 2}})), ("cbor", bytes.fromhex("a20101f901")),
        ("cbor", bytes.fromhex("a20101f93c0002")),
        ("msgpack", msgpack.packb({"a.b": 1, "a": {"b": 2}})), ("msgpack", msgpack.packb({1: 1, "1": 2})),
        ("msgpack", msgpack.packb({b"k": 1, "k": 2})), ("msgpack", bytes.fromhex("820101c302")),
        ("msgpack", msgpack.packb({"x": {1: 1, "1": 2}})),
        ("senml+json", b'[{"n":"a","v":1},{"n":"a","v":2}]'),
        ("senml+json", b'[{"bn":"a","n":"b","v":1},{"bn":"","n":"ab","v":1}]'),
        ("senml+cbor", cbor2.dumps([{0: "a", "n": "b", 2: 1}])), ("senml+cbor", cbor2.dumps([{0: "a", 2: 1, "v": 2}])),
        ("senml+json", b'[{"n":"a","v":1,"s":2},{"n":"a.sum","v":2}]'),
        ("line", b"m a=1,a=2"), ("line", b"m,a=1 a=2"), ("line", b"m,a=1,a=1 b=2"),
    ],
)  # fmt: skip
def test_other_formats(codec: str, payload: bytes):
    """Names of other types that become one text, names by number, tags and fields."""
    with pytest.raises(DecodeError) as caught:
        decoder(codec=codec).parse(payload, NOW)
    assert caught.value.reason in {"duplicate_key", "codec"}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'[{"n":"t","v":1},{"bn":"dev:","n":"t","v":2}]', {"t": 1, "dev:t": 2}),
        (b'[{"n":"e","v":1,"s":2.5}]', {"e": 1, "e.sum": 2.5}),
        (b'[{"n":"e","vb":true,"s":2,"bs":1}]', {"e": True, "e.sum": 3}),
        (b'[{"bn":"x:"},{"n":"a","v":1},{"n":"b","v":2}]', {"a": 1, "b": 2}),
    ],
)  # fmt: skip
def test_senml_keeps_both(payload: bytes, expected: dict):
    """A base name that comes later is not shared; a sum has a place beside a value."""
    ((_, fields, _),) = decoder(codec="senml+json").parse(payload, NOW)
    assert fields == expected


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'[{"bn":"x","bv":1.7e308,"v":1.7e308}]', "nan"), (b'[{"bn":"x","bs":18446744073709551615,"s":1}]', "integer"),
    ],
)  # fmt: skip
def test_senml_sums_that_cannot_be_kept(payload: bytes, reason: str):
    """Base and value together may be beyond what a number can be."""
    with pytest.raises(DecodeError) as caught:
        decoder(codec="senml+json").parse(payload, NOW)
    assert caught.value.reason == reason


def test_points_of_one_series_and_time_are_both_kept():
    """They are two readings; a stream may say that duplicates are merged."""
    found = decoder(codec="line").parse(b"m,t=a v=1 1795391000\nm,t=a v=2 1795391000", NOW)
    assert [fields["m.v"] for _, fields, _ in found] == [1.0, 2.0]


def test_what_the_topic_says_and_the_message_says():
    """Alike it is one field; otherwise both are kept, that of the topic as `topic.name`."""
    captured = {"area": "north", "line": "7"}
    ((_, fields, _),) = decoder(captured).parse(b'{"area":"north","line":7}', NOW)
    assert fields == {"area": "north", "line": 7, "topic.line": "7"}
    ((_, fields, _),) = decoder(captured).parse(b'{"area":"south","topic.area":"east"}', NOW)
    assert fields == {"area": "south", "topic.area": "east", "topic.topic.area": "north", "line": "7"}


def test_times_in_two_places():
    """A stream's own field is the time; `ts` is a field like others then."""
    ((time, fields, _),) = decoder(time="t").parse(b'{"t":1795391000,"ts":5}', NOW)
    assert (time, fields) == (NOW, {"ts": 5})
    ((time, fields, _),) = decoder(time="received").parse(b'{"t":1795391000,"ts":5,"":1}', NOW)
    assert (time, fields) == (None, {"t": 1795391000, "ts": 5, "": 1})
    with pytest.raises(DecodeError, match="t is an object"):
        decoder(time="t").parse(b'{"t":{"x":1}}', NOW)
    ((time, fields, _),) = decoder(codec="senml+json").parse(b'[{"n":"ts","v":5,"t":1795391000}]', NOW)
    assert (time, fields) == (NOW, {"ts": 5})
    ((time, fields, _),) = decoder(codec="senml+json").parse(b'[{"n":"ts","v":5}]', NOW)
    assert (time, fields) == (None, {"ts": 5})
    ((time, fields, _),) = decoder(codec="senml+json", time="ts").parse(b'[{"n":"ts","v":1795391000}]', NOW)
    assert (time, fields) == (NOW, {})
