"""Sparkplug, whatever comes in whatever order: readings or its own error, and births that are the same when kept."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from ingester.codecs import CODECS, Context, Options
from ingester.codecs.births import Birth, Births
from ingester.decode import REASONS, DecodeError, flatten
from tests.sparkplug import data_set, field, metric, payload, template

NOW = 1_795_391_000_000_000
NUMBERS = st.sampled_from([0, 1, 5, 127, 128, 250, 2**15, 2**31, 2**32 - 6, 2**63, 2**64 - 6])
SCALARS = st.one_of(
    st.fixed_dictionaries({"int_value": NUMBERS}),
    st.fixed_dictionaries({"long_value": NUMBERS}),
    st.fixed_dictionaries({"float_value": st.floats(width=32)}),
    st.fixed_dictionaries({"double_value": st.floats()}),
    st.fixed_dictionaries({"boolean_value": st.booleans()}),
    st.fixed_dictionaries({"string_value": st.text(max_size=3)}),
    st.fixed_dictionaries({"is_null": st.booleans()}),
)
SETS = st.builds(
    data_set, st.lists(st.sampled_from("ab"), max_size=2), st.lists(st.integers(0, 14), max_size=2),
    st.lists(SCALARS, max_size=3),
)  # fmt: skip


def named(values: st.SearchStrategy) -> st.SearchStrategy:
    about = {
        "name": st.sampled_from(["a", "b", "a.b", "0", "", "bdSeq"]), "alias": st.integers(0, 2),
        "datatype": st.integers(0, 36), "is_historical": st.booleans(),
        "timestamp": st.sampled_from([0, NOW // 1000, 2**63]),
    }  # fmt: skip
    return st.builds(lambda one, other: {**one, **other}, st.fixed_dictionaries({}, optional=about), values)


BYTES = st.fixed_dictionaries({"bytes_value": st.binary(max_size=9)})
SIMPLE = named(SCALARS | BYTES)
TEMPLATES = st.builds(lambda members: template(*members, reference="a"), st.lists(SIMPLE, max_size=3))
METRICS = SIMPLE | named(
    st.fixed_dictionaries({"template_value": TEMPLATES}) | st.fixed_dictionaries({"dataset_value": SETS})
)
KINDS = st.sampled_from(["NBIRTH/n", "DBIRTH/n/u", "NDATA/n", "DDATA/n/u", "NDEATH/n", "DDEATH/n/u", "NCMD/n"])
TOPICS = KINDS.map("spBv1.0/g/{}".format) | st.sampled_from(["spBv1.0/STATE/h", "x"])
PAYLOADS = st.builds(
    lambda metrics, seq: payload(*metrics, seq=seq), st.lists(METRICS, max_size=4), st.none() | st.integers(0, 255)
)
DAMAGED = st.builds(lambda data, at: data[: at % (len(data) + 1)] + b"\xff" + data[at % (len(data) + 1) :], PAYLOADS,
                    st.integers(0, 200))  # fmt: skip
MESSAGES = st.tuples(TOPICS, PAYLOADS | DAMAGED | st.binary(max_size=20))


def read(births: Births, topic: str, data: bytes) -> object:
    """Readings as JSON, or the reason."""
    codec = CODECS["sparkplug"](Options(births=births))
    context = Context(topic, "d", NOW)
    try:
        found = codec.parse(data, context)
    except DecodeError as error:
        assert error.reason in REASONS
        return error.reason, str(error)
    assert found
    for part in context.bad:
        assert part.reason in REASONS
    return orjson.dumps([[time, flatten(fields, None), marks] for time, fields, marks in found]), len(context.bad)


@given(st.lists(MESSAGES, max_size=5), MESSAGES)
def test_any_messages(before: list[tuple[str, bytes]], last: tuple[str, bytes]):
    """Nothing else than readings or an error; what comes next is read alike by births that were kept on disk."""
    births, kept = Births(), Births()
    for topic, data in before:
        read(births, topic, data)
    rows = [(origin, unit, birth) for (origin, unit), birth in births.changes.items() if birth is not None]
    kept.load((origin, unit, Birth(birth.received, birth.kept)) for origin, unit, birth in rows)
    for origin, _, _ in rows:
        kept.find(origin).sequence = births.find(origin).sequence
    assert births.size_bytes == kept.size_bytes == sum(len(birth.kept) for _, _, birth in rows)
    if births.count == kept.count:  # the numbers of nodes without a birth are not kept
        assert read(births, *last) == read(kept, *last)


@given(st.binary(max_size=30), TOPICS)
def test_any_bytes(data: bytes, topic: str):
    """A value or its error, never anything else; in an unknown field too."""
    read(Births(), topic, data)
    read(Births(), topic, payload(metric(name="a") + field(30, data)))
