"""Sparkplug B beside its specification: types, names and aliases, births and deaths, encoded by something else."""

import gzip
import sqlite3
import struct
import zlib
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count

import pytest

from broker_plugins.engine.waiting import called_back
from ingester.batch import Batch
from ingester.codecs import CODECS, Context, Options
from ingester.codecs.births import Birth, Births, Origin
from ingester.codecs.sparkplug import rebirth_request, rebirth_topic
from ingester.decode import DecodeError, Limits
from ingester.errors import StoreUnavailable
from ingester.ledger import Ledger
from ingester.memory import MemoryStore
from ingester.pipeline import Pipeline
from ingester.quarantine import Replayed, replay
from ingester.sqlite import SqliteStore
from ingester.sqlite.births import KeptBirths
from ingester.store import Selection
from ingester.streams import Streams
from ingester.streams.definition import from_object
from tests.sparkplug import data_set, field, metric, payload, template

NOW = 1_795_391_000_000_000
MS = NOW // 1000
NAN = float("nan")


class Host:
    """A codec, with what it asks of nodes."""

    def __init__(self, aliases: int = 10_000, births: Births | None = None) -> None:
        self.births = Births() if births is None else births
        self.asked: list[Origin] = []
        self.births.wanted = self.asked.append
        self.codec = CODECS["sparkplug"](Options(births=self.births, aliases=aliases))

    def parse(self, where: str, data: bytes, at: int = NOW, **more):
        context = Context(where if "/" not in where else f"spBv1.0/g/{where}", "d", at, **more)
        found = self.codec.parse(data, context)
        return found, context.bad

    def read(self, where: str, *metrics, seq: int | None = None, **more):
        """(milliseconds, fields, marks) of each reading."""
        found, _ = self.parse(where, payload(*metrics, seq=seq), **more)
        return [(time and time // 1000, fields, marks) for time, fields, marks in found]

    def fields(self, where: str, *metrics, **more):
        """Fields of the only reading."""
        ((_, fields, _),) = self.read(where, *metrics, **more)
        return fields

    def refused(self, where: str, *metrics, data: bytes | None = None, **more) -> str:
        with pytest.raises(DecodeError) as caught:
            self.parse(where, payload(*metrics, seq=None) if data is None else data, **more)
        return caught.value.reason


@pytest.fixture
def host() -> Host:
    return Host()


def packed(code: str, *values) -> bytes:
    return struct.pack(f"<{len(values)}{code}", *values)


TYPES = [
    *((kind, {"int_value": 5}, 5) for kind in (1, 2, 3, 5, 6, 7)),
    *((kind, {"long_value": 5}, 5) for kind in (4, 8, 13)),
    (1, {"int_value": 250}, -6), (1, {"int_value": 2**32 - 6}, -6), (1, {"int_value": 2**64 - 6}, -6),
    (1, {"int_value": 127}, 127), (1, {"int_value": 128}, -128),
    (2, {"int_value": 65_530}, -6), (2, {"int_value": 2**32 - 6}, -6), (2, {"long_value": 2**64 - 6}, -6),
    (2, {"int_value": 2**15}, -(2**15)), (2, {"int_value": 2**15 - 1}, 2**15 - 1),
    (3, {"int_value": 2**32 - 6}, -6), (3, {"long_value": 2**64 - 6}, -6), (3, {"long_value": 2**32 - 6}, -6),
    (3, {"int_value": 2**31}, -(2**31)), (3, {"int_value": 2**31 - 1}, 2**31 - 1),
    (4, {"long_value": 2**64 - 6}, -6), (4, {"long_value": 2**63}, -(2**63)), (4, {"int_value": 7}, 7),
    (4, {"long_value": 2**32 - 6}, 2**32 - 6),
    (5, {"int_value": 250}, 250), (6, {"int_value": 65_530}, 65_530), (7, {"int_value": 2**32 - 1}, 2**32 - 1),
    (7, {"long_value": 2**32 - 1}, 2**32 - 1), (8, {"long_value": 2**64 - 1}, 2**64 - 1), (8, {"int_value": 3}, 3),
    (9, {"float_value": 21.1}, 21.1), (9, {"float_value": 16_777_217.0}, 16_777_216.0),
    (9, {"float_value": 12_345_678.0}, 12_345_678.0), (9, {"float_value": -0.1}, -0.1), (9, {"double_value": 0.1}, 0.1),
    (9, {"float_value": 3.4028234663852886e38}, 3.4028235e38), (9, {"float_value": 1e-45}, 1.401298e-45),
    (9, {"float_value": 0.0009765625}, 0.0009765625), (9, {"int_value": 3}, 3),
    (10, {"double_value": 21.123456789012345}, 21.123456789012345), (10, {"float_value": 2.5}, 2.5),
    (11, {"boolean_value": True}, True), (11, {"boolean_value": False}, False), (11, {"int_value": 1}, True),
    (11, {"int_value": 0}, False), (11, {"long_value": 1}, True),
    (12, {"string_value": "ä"}, "ä"), (14, {"string_value": ""}, ""), (15, {"string_value": "6ba7"}, "6ba7"),
    (13, {"long_value": MS}, MS), (13, {"long_value": 2**64 - 1000}, -1000),
    (17, {"bytes_value": b"\0\xff"}, "AP8="), (18, {"bytes_value": b"x"}, "eA=="),
    (16, {"dataset_value": data_set(["a", "b"], [1, 8], [{"int_value": 250}, {"long_value": 2**64 - 1}], [{}])},
     [{"a": -6, "b": 2**64 - 1}, {"a": None}]),
    (16, {"dataset_value": data_set(["x"], [], [{"string_value": "s"}])}, [{"x": "s"}]),
    (19, {"template_value": template({"name": "m", "datatype": 3, "int_value": 2**32 - 6}, {"boolean_value": True},
                                     parameters=({"name": "p", "type": 1, "int_value": 250}, {"name": "q"}))},
     {"m": -6, "1": True, "parameters": {"p": -6, "q": None}}),
    (22, {"bytes_value": packed("b", -6, 5)}, [-6, 5]), (23, {"bytes_value": packed("h", -6, 5)}, [-6, 5]),
    (24, {"bytes_value": packed("i", -6)}, [-6]), (25, {"bytes_value": packed("q", -6)}, [-6]),
    (26, {"bytes_value": packed("B", 250)}, [250]), (27, {"bytes_value": packed("H", 65_530)}, [65_530]),
    (28, {"bytes_value": packed("I", 2**32 - 1)}, [2**32 - 1]),
    (29, {"bytes_value": packed("Q", 2**64 - 1)}, [2**64 - 1]),
    (30, {"bytes_value": packed("f", 21.1, 16_777_216)}, [21.1, 16_777_216.0]),
    (31, {"bytes_value": packed("d", 0.1)}, [0.1]),
    (32, {"bytes_value": b"\x0c\0\0\0\x34\xd0"}, [c == "1" for c in "001101001101"]),
    (32, {"bytes_value": b"\0\0\0\0"}, []),
    (33, {"bytes_value": b"abc\0\0d\0"}, ["abc", "", "d"]), (33, {"bytes_value": b"a\0b"}, ["a", "b"]),
    (34, {"bytes_value": packed("q", MS, -1000)}, [MS, -1000]), (26, {"bytes_value": b""}, []),
    (0, {"int_value": 5}, 5), (0, {"string_value": "x"}, "x"), (0, {"bytes_value": b"x"}, "eA=="),
    (99, {"double_value": 1.5}, 1.5),
    *((kind, {"is_null": True}, None) for kind in range(1, 35)),
    (3, {"is_null": True, "int_value": 5}, None), (3, {}, None),
]  # fmt: skip


@pytest.mark.parametrize(("datatype", "given", "wanted"), TYPES)
@pytest.mark.parametrize("unit", ["", "/pump"])
def test_each_type(host: Host, datatype: int, given: dict, wanted, unit: str):
    """A birth gives a value and its type; data by name, by alias, or by both, have it without saying it again."""
    kind = "D" if unit else "N"
    host.read("NBIRTH/n")
    about = {"name": "m", "alias": 0, "datatype": datatype}
    assert host.fields(f"{kind}BIRTH/n{unit}", {**about, **given}) == {"m": wanted}
    for said in ({"name": "m"}, {"alias": 0}, {"name": "m", "alias": 0}, about):
        assert host.fields(f"{kind}DATA/n{unit}", {**said, **given}) == {"m": wanted}
        assert host.fields(f"{kind}CMD/n{unit}", {**said, **given}) == {"m": wanted}
    assert type(host.fields(f"{kind}DATA/n{unit}", {"alias": 0, **given})["m"]) is type(wanted)
    assert host.asked == []


@pytest.mark.parametrize(
    ("datatype", "given", "reason"),
    [
        (1, {"int_value": 300}, "codec"), (2, {"int_value": 2**20}, "codec"), (3, {"long_value": 2**40}, "codec"),
        (11, {"int_value": 2**31}, "codec"), (9, {"int_value": 2**32 - 6}, "codec"),
        (0, {"int_value": 2**32 - 6}, "codec"),
        (0, {"long_value": 2**64 - 6}, "codec"), (9, {"float_value": NAN}, "nan"),
        (10, {"double_value": float("inf")}, "nan"),
        (12, {"string_value": b"\xff"}, "utf8"), (23, {"bytes_value": b"\0"}, "codec"),
        (32, {"bytes_value": b"\xff\0\0\0"}, "codec"),
        (33, {"bytes_value": b"\xff\0"}, "codec"),
        (30, {"bytes_value": packed("f", NAN)}, "nan"), (3, {"extension_value": b""}, "codec"),
        (16, {"dataset_value": data_set(["a", "a"], [1, 1], [{"int_value": 1}])}, "duplicate_key"),
        (16, {"dataset_value": data_set(["a"], [1], [{"int_value": 1}, {"int_value": 2}])}, "codec"),
        (16, {"dataset_value": data_set(["a" * 10_000], [1], *[[{"int_value": 1}]] * 200)}, "size"),
        (16, {"dataset_value": data_set(["a"], [2], [{"int_value": 2**20}])}, "codec"),
        (19, {"template_value": template({"name": "a", "int_value": 1}, {"name": "a"})}, "duplicate_key"),
        (19, {"template_value": template({"name": "0"}, {"int_value": 2}, {"name": "1"})}, "duplicate_key"),
        (19, {"template_value": template(parameters=({"name": "p"}, {"name": "p"}))}, "duplicate_key"),
        (19, {"template_value": template({"name": "parameters"}, parameters=({"name": "p"},))}, "duplicate_key"),
    ],
)  # fmt: skip
def test_a_value_that_its_type_does_not_have(host: Host, datatype: int, given: dict, reason: str):
    """A message is taken without it; data by the alias of such a metric are read by the type that its birth gave."""
    bad, good = {"name": "bad", "alias": 1, "datatype": datatype}, {"name": "good", "alias": 2, "datatype": 1}
    found, parts = host.parse("NBIRTH/n", payload({**bad, **given}, {**good, "int_value": 250}))
    assert found == [(NOW, {"good": -6}, ("birth", "partial"))]
    ((kept, detail, data),) = parts
    assert kept == reason
    assert "bad" in detail or "m" in detail
    assert metric(**bad, **given) in data
    assert b"good" not in data
    assert host.parse("NBIRTH/n", payload({**bad, **given}, {**good, "int_value": 1}, timestamp=None))[1]
    assert host.fields("NDATA/n", {"alias": 2, "int_value": 250}) == {"good": -6}
    found, parts = host.parse("NDATA/n", payload({"alias": 1, **given}, {"alias": 2, "int_value": 250}, seq=1))
    assert found == [(NOW, {"good": -6}, ("partial",))]
    assert [(kept, data) for kept, _, data in parts] == [(reason, payload({"alias": 1, **given}, seq=None))]
    assert host.refused("NDATA/n", {"alias": 1, **given}) == reason
    assert host.refused("NDATA/n", {"alias": 1, **given}, {"alias": 9, "int_value": 1}) == "alias"


def test_units_of_a_node_are_apart():
    """Metrics of one name and alias, of the node and of two devices, each with the type its own birth gave."""
    host = Host()
    host.read("NBIRTH/n", {"name": "m", "alias": 1, "datatype": 3, "int_value": 0, "unit": "bar"})
    host.read("DBIRTH/n/a", {"name": "m", "alias": 1, "datatype": 7, "int_value": 0})
    host.read("DBIRTH/n/b", {"name": "m", "alias": 1, "datatype": 1, "int_value": 0}, {"name": "x", "alias": 2})
    for said in ({"alias": 1}, {"name": "m"}):
        assert host.fields("NDATA/n", {**said, "int_value": 2**32 - 6}) == {"m": -6}
        assert host.fields("DDATA/n/a", {**said, "int_value": 2**32 - 6}) == {"m": 2**32 - 6}
        assert host.fields("DDATA/n/b", {**said, "int_value": 250}) == {"m": -6}
    assert host.refused("DDATA/n/a", {"alias": 2, "int_value": 1}) == "alias"
    assert host.codec.units == {"m": "bar"}
    host.read("DDEATH/n/b")
    assert host.refused("DDATA/n/b", {"alias": 1, "int_value": 1}) == "alias"
    assert host.fields("DDATA/n/a", {"alias": 1, "int_value": 1}) == {"m": 1}
    host.read("NBIRTH/n", {"name": "k", "alias": 1, "datatype": 1, "int_value": 0})
    assert host.fields("NDATA/n", {"alias": 1, "int_value": 250}) == {"k": -6}
    assert host.refused("DDATA/n/a", {"alias": 1, "int_value": 1}) == "alias"


def test_members_of_templates_have_the_types_of_their_births():
    """Those of the instance, by name and by alias, and else those of the definition in the node's birth."""
    host = Host()
    member = {"name": "v", "alias": 7, "datatype": 1, "int_value": 250}
    definition = template(member, {"name": "w", "datatype": 1}, definition=True)
    host.read("NBIRTH/n", {"name": "_types_/T", "datatype": 19, "template_value": definition})
    own = template({"name": "v", "alias": 7, "datatype": 2, "int_value": 0}, reference="T")
    host.read("DBIRTH/n/u", {"name": "t", "alias": 3, "datatype": 19, "template_value": own})
    sent = template({"alias": 7, "int_value": 65_530}, {"name": "w", "int_value": 250}, reference="T")
    assert host.fields("DDATA/n/u", {"alias": 3, "template_value": sent}) == {"t": {"v": -6, "w": -6}}
    again = Host(births=Births())
    again.births.load(
        (origin, unit, Birth(birth.received, birth.kept)) for (origin, unit), birth in host.births.changes.items()
    )
    assert again.births.changes == {}
    assert again.fields("DDATA/n/u", {"alias": 3, "template_value": sent}) == {"t": {"v": -6, "w": -6}}


@pytest.mark.parametrize(
    "given",
    [{"alias": 5, "int_value": 1}, {"name": "m", "int_value": 128}, {"name": "m", "long_value": 2**64 - 6},
     {"name": "m", "alias": 1, "int_value": 2**32 - 6}, {"name": "m", "bytes_value": b"\0"},
     {"name": "m", "template_value": template({"name": "a", "int_value": 250})}],
)  # fmt: skip
def test_a_birth_that_is_missing(host: Host, given: dict):
    """What would be misread without it is refused, and the birth is asked for; so it is after a death."""
    assert host.refused("DDATA/n/u", given) == "alias"
    assert set(host.asked) == {Origin("", "d", "g", "n")}
    host.read("NBIRTH/n")
    host.read("DBIRTH/n/u", {"name": "other", "alias": 9, "datatype": 1})
    host.asked.clear()
    assert host.refused("DDATA/n/u", given) == "alias"
    assert host.asked
    assert host.refused("DCMD/n/u", given) == "alias"
    for trial in ({"trial": True}, {"replayed": True, "source": None}):
        host.asked.clear()
        assert host.refused("DDATA/n/u", given, **trial) == "alias"
        assert not host.asked


def test_a_type_that_the_birth_does_not_know(host: Host):
    """Data may say it; where nothing does, only a negative integer would be misread."""
    host.read("NBIRTH/n", {"name": "a", "alias": 1, "datatype": 0}, {"name": "b", "alias": 2})
    assert host.fields("NDATA/n", {"alias": 1, "datatype": 3, "int_value": 2**32 - 6}) == {"a": -6}
    assert host.fields("NDATA/n", {"alias": 1, "int_value": 2**31 - 1}, {"alias": 2, "bytes_value": b"x"}) == {
        "a": 2**31 - 1, "b": "eA==",
    }  # fmt: skip
    assert host.refused("NDATA/n", {"alias": 1, "int_value": 2**32 - 6}) == "codec"
    assert host.asked == []


def test_what_needs_no_birth_is_read_and_the_birth_asked_for(host: Host):
    """Names with types, values that are the same in every type; and not again once the births are there."""
    typed = {"name": "a", "datatype": 3, "int_value": 2**32 - 6}
    assert host.fields("NDATA/n", typed, {"name": "b", "int_value": 5}) == {"a": -6, "b": 5}
    host.read("DBIRTH/n/u", {"name": "a", "datatype": 3})
    host.read("DDATA/n/u", {"name": "a", "int_value": 1})
    assert len(host.asked) == 3
    host.read("NBIRTH/n")
    host.read("NDATA/n")
    host.read("NCMD/n")
    assert len(host.asked) == 3
    host.read("DDATA/n/u", {"name": "a", "int_value": 1})
    assert len(host.asked) == 4


def test_names_and_aliases_that_contradict_each_other(host: Host):
    """An alias means one metric: given to two it means none, and a name beside another's alias is an error."""
    found, parts = host.parse(
        "NBIRTH/n",
        payload(
            {"name": "a", "alias": 1, "datatype": 1, "int_value": 1},
            {"name": "b", "alias": 1, "datatype": 2, "int_value": 2},
            {"name": "c", "alias": 1, "datatype": 2, "int_value": 3},
            {"name": "d", "alias": 2, "datatype": 2, "int_value": 4},
            {"name": "d", "alias": 3, "datatype": 3, "int_value": 5},
            {"name": "d", "alias": 4, "datatype": 2, "int_value": 6},
            {"alias": 5, "int_value": 7},
            metric(alias=6, int_value=8) + field(1, b"\xff"),
            {"name": "e", "timestamp": 2**63, "datatype": 2, "int_value": 9},
        ),
    )
    assert [fields for _, fields, _ in found] == [{"a": 1, "d": 4}, {"d": 6}]
    assert {reason: detail for reason, detail, _ in parts} == {
        "alias": "alias 1 belongs to 'a' and to 'b' (and 1 more)",
        "duplicate_key": "metric 'd' twice, with the datatypes 2 and 3",
        "codec": "metric 6 of a birth has no name",
        "utf8": "'metric 7' is not UTF-8",
        "timestamp": "ts is outside the years 1 to 9999",
    }
    assert host.refused("NDATA/n", {"alias": 1, "int_value": 1}) == "alias"
    assert host.refused("NDATA/n", {"alias": 3, "int_value": 1}) == "alias"
    assert host.refused("NDATA/n", {"name": "a", "alias": 4, "int_value": 1}) == "alias"
    assert host.fields("NDATA/n", {"alias": 4, "int_value": 65_530}, {"name": "e", "int_value": 1}) == {"d": -6, "e": 1}
    assert host.refused("NDATA/n", {"int_value": 1}) == "codec"


def test_times(host: Host):
    """Metrics of one time are one reading; two values of one metric and time are two; 0 is no time."""
    host.read("NBIRTH/n", {"name": "a", "datatype": 1}, {"name": "t", "datatype": 19})
    inner = template({"name": "v", "int_value": 1})
    assert host.read(
        "NDATA/n",
        {"name": "a", "int_value": 1}, {"name": "a", "int_value": 2}, {"name": "a", "timestamp": 0, "int_value": 3},
        {"name": "a", "timestamp": MS + 1, "int_value": 4}, {"name": "b", "timestamp": MS, "int_value": 5},
        {"name": "a", "timestamp": MS, "is_historical": True, "int_value": 6},
        {"name": "t", "template_value": inner}, {"name": "t.v", "int_value": 7},
        {"name": "a", "timestamp": MS // 1000, "int_value": 8},
    ) == [
        (MS, {"a": 1, "b": 5, "t": {"v": 1}}, ()), (MS, {"a": 2, "t.v": 7}, ()), (MS, {"a": 3}, ()),
        (MS + 1, {"a": 4}, ()), (MS, {"a": 6}, ("historical",)), (MS // 1000, {"a": 8}, ()),
    ]  # fmt: skip
    for none in (None, 0):
        ((time, _, _),), _ = host.parse("NDATA/n", payload({"name": "a", "int_value": 1}, timestamp=none, seq=None))
        assert time is None
    assert host.refused("NDATA/n", {"name": "a", "timestamp": 2**63, "int_value": 1}) == "timestamp"


def test_sequence_numbers(host: Host):
    """255 is followed by 0; a gap is marked and the births asked for, also after messages that could not be read."""
    host.read("NBIRTH/n", {"name": "a", "alias": 1, "datatype": 1}, seq=0)
    host.read("DBIRTH/n/u", {"name": "a", "alias": 1, "datatype": 1}, seq=1)
    for number in range(2, 600):
        where = "NDATA/n" if number % 2 else "DDATA/n/u"
        assert host.read(where, {"alias": 1, "int_value": 1}, seq=number % 256)[0][2] == ()
    with pytest.raises(DecodeError):
        host.read("NDATA/n", {"alias": 5}, seq=600 % 256)
    host.asked.clear()
    assert host.read("NCMD/n", {"alias": 1, "int_value": 1}, seq=9)[0][2] == ()
    assert host.read("NDATA/n", {"alias": 1, "int_value": 1}, seq=601 % 256)[0][2] == ()
    assert host.asked == []
    assert host.read("NDATA/n", seq=603 % 256, trial=True)[0][2] == ("sequence_gap",)
    for where, seq in (("NDATA/n", 603), ("DBIRTH/n/u", 605), ("DDEATH/n/u", 607)):
        assert host.read(where, seq=seq % 256)[0][2][-1] == "sequence_gap"
    assert len(host.asked) == 3
    assert host.read("NBIRTH/n", seq=0)[0][2] == ("birth",)


def test_births_that_were_kept(host: Host):
    """They are in effect; a node of another broker, which may have been born meanwhile, is asked once."""

    def again(source: str) -> Host:
        found = Host(births=Births())
        found.births.load(
            (origin._replace(source=source), unit, Birth(birth.received, birth.kept))
            for (origin, unit), birth in host.births.changes.items()
        )
        return found

    born = {"name": "m", "alias": 1, "datatype": 1, "int_value": 250}
    host.read("NBIRTH/n", born)
    host.read("DBIRTH/n/u", born)
    ours, theirs, late = again(""), again("mqtt://h"), again("mqtt://h")
    for _ in range(3):
        assert ours.fields("DDATA/n/u", {"alias": 1, "int_value": 250}) == {"m": -6}
        assert theirs.fields("DDATA/n/u", {"alias": 1, "int_value": 250}, source="mqtt://h") == {"m": -6}
    late.read("NBIRTH/n", born, source="mqtt://h")
    late.read("NDATA/n", {"alias": 1, "int_value": 250}, source="mqtt://h")
    assert (len(ours.asked), len(theirs.asked), len(late.asked)) == (0, 1, 0)


def test_deaths(host: Host):
    """A death ends the births of its own session; one of a session before comes late, and ends nothing."""
    born = {"name": "a", "alias": 1, "datatype": 1, "int_value": 1}
    for number in (7, None):
        numbered = [] if number is None else [{"name": "bdSeq", "datatype": 8, "long_value": number}]
        host.read("NBIRTH/n", *numbered, born)
        if number is not None:
            assert host.read("NDEATH/n", {"name": "bdSeq", "long_value": 6})[0][1:] == ({"bdSeq": 6}, ("late_death",))
        assert host.fields("NDATA/n", {"alias": 1, "int_value": 1}) == {"a": 1}
        assert host.read("NDEATH/n", {"name": "bdSeq", "long_value": 7})[0][2] == ("death",)
        assert host.refused("NDATA/n", {"alias": 1, "int_value": 1}) == "alias"
    host.read("NBIRTH/n", {"name": "bdSeq", "datatype": 12, "string_value": "?"}, born)
    assert host.read("NDEATH/n", trial=True)[0][2] == ("death",)
    assert host.fields("NDATA/n", {"alias": 1, "int_value": 1}) == {"a": 1}
    assert host.read("NDEATH/n")[0][2] == ("death",)
    host.read("NBIRTH/n", born)
    assert host.refused("NDEATH/n", {"alias": 9, "int_value": 1}) == "alias"
    assert host.refused("NDATA/n", {"alias": 1, "int_value": 1}) == "alias"


@pytest.mark.parametrize("where", ["NBIRTH/n", "DBIRTH/n/u"])
@pytest.mark.parametrize("data", [b"\xff\xff", payload(*({"name": f"m{n}"} for n in range(11)))])
def test_a_birth_that_cannot_be_read(where: str, data: bytes):
    """The one before it is not in effect any more: what follows is not read by names that may be others now."""
    host = Host(aliases=10)
    born = {"name": "a", "alias": 1, "datatype": 1, "int_value": 1}
    host.read("NBIRTH/n", born)
    host.read("DBIRTH/n/u", born)
    host.refused(where, data=data, trial=True)
    host.refused(where, data=data, replayed=True)
    assert host.fields(where.replace("BIRTH", "DATA"), {"alias": 1, "int_value": 1}) == {"a": 1}
    host.refused(where, data=data)
    assert host.refused(where.replace("BIRTH", "DATA"), {"alias": 1, "int_value": 1}) == "alias"


def test_metrics_of_a_node_are_bounded():
    """Those of its devices are counted with its own."""
    host = Host(aliases=10)
    host.read("NBIRTH/n", *({"name": f"m{n}"} for n in range(6)))
    host.read("DBIRTH/n/a", *({"name": f"m{n}"} for n in range(4)))
    assert host.refused("DBIRTH/n/b", {"name": "m"}) == "size"
    host.read("DBIRTH/n/a", {"name": "m", "template_value": template({"name": "x"}, {"name": "y"})})
    assert host.refused("DBIRTH/n/b", {"name": "m"}, {"name": "k"}) == "size"


def test_names_of_nodes_are_bounded(host: Host):
    """They are remembered: nothing of a longer topic is."""
    assert host.refused(f"NBIRTH/{'n' * 1000}", {"name": "m"}) == "codec"
    assert host.births.count == 0


def test_templates_end_somewhere(host: Host):
    """As deep as the limit allows, in births and in data."""
    inner = template({"name": "v", "int_value": 1})
    for _ in range(20):
        inner = template({"name": "t", "template_value": inner})
    assert host.refused("NBIRTH/n", {"name": "t", "template_value": inner}) == "depth"
    assert host.refused("NDATA/n", {"name": "t", "template_value": inner}) == "depth"


def test_packed_bodies(host: Host):
    """DEFLATE or GZIP; number and time are those around it where it has none."""
    host.read("NBIRTH/n", seq=0)
    inner = payload({"name": "z", "datatype": 1, "int_value": 250}, seq=None, timestamp=None)
    for number, (algorithm, body) in enumerate((("DEFLATE", zlib.compress(inner)), ("GZIP", gzip.compress(inner))), 1):
        around = {"name": "algorithm", "string_value": algorithm}
        data = payload(around, seq=number, uuid="SPBV1.0_COMPRESSED", body=body)
        assert host.parse("NDATA/n", data)[0] == [(NOW, {"z": -6}, ())]
    data = payload(seq=7, timestamp=5, uuid="SPBV1.0_COMPRESSED", body=zlib.compress(payload(seq=3)))
    assert host.parse("NDATA/n", data)[0] == [(NOW, {}, ())]
    for body, reason in ((b"x", "compressed"), (zlib.compress(b"\0" * 10_000_000), "size")):
        assert host.refused("NDATA/n", data=payload(uuid="SPBV1.0_COMPRESSED", body=body)) == reason
    assert host.refused("NDATA/n", data=b"") == "empty"
    assert host.refused("NDATA/n", data=field(20, 1)) == "codec"


@pytest.mark.parametrize("topic", ["spBv1.0/STATE/scada", "STATE/scada"])
def test_states_of_hosts(host: Host, topic: str):
    """JSON with a time, or a word."""

    def read(data: bytes):
        return host.codec.parse(data, Context(topic, "d", NOW))

    assert read(b'{"online": true, "timestamp": %d}' % MS) == [(NOW, {"online": True}, ())]
    assert read(b'{"online": false}') == [(None, {"online": False}, ())]
    assert read(b"OFFLINE") == [(None, {"online": False}, ())]
    with pytest.raises(DecodeError) as caught:
        read(b"on")
    assert caught.value.reason == "not_json"


def test_topics_that_are_not_of_sparkplug():
    """Each message is birth and data at once; a type or an alias that is given again counts from then on."""
    host = Host(aliases=4)
    assert host.fields("x", {"name": "a", "alias": 1, "datatype": 1, "int_value": 250}) == {"a": -6}
    assert host.fields("spBv1.0", {"alias": 1, "int_value": 250}, {"name": "b", "string_value": "x"}) == {
        "a": -6,
        "b": "x",
    }
    assert host.fields("x", {"name": "a", "datatype": 7, "int_value": 250}) == {"a": 250}
    assert host.fields("x", {"name": "c", "alias": 1, "datatype": 1, "int_value": 250}) == {"c": -6}
    assert host.fields("x", {"name": "a", "int_value": 250}, {"alias": 1, "int_value": 250}) == {"a": 250, "c": -6}
    assert host.fields("x", {"name": "q", "int_value": 5}, trial=True) == {"q": 5}
    assert host.refused("x", {"name": "d"}, {"name": "e"}) == "size"
    assert host.asked == []


def test_births_are_bounded():
    """Nodes of a device, all nodes, and bytes: the nodes heard of longest ago go, and what is kept of them."""

    def born(births: Births, device: str, node: str, size: int = 1) -> None:
        codec = CODECS["sparkplug"](Options(births=births))
        codec.parse(payload({"name": "m" * size}), Context(f"spBv1.0/g/NBIRTH/{node}", device, NOW))

    few = Births(most_nodes=2)
    for node in "1213":
        born(few, "a", node)
    born(few, "b", "1")
    kept = {(origin.device, origin.node): birth is not None for (origin, _), birth in few.changes.items()}
    assert kept == {("a", "1"): True, ("a", "2"): False, ("a", "3"): True, ("b", "1"): True}
    few = Births(most_in_all=2)
    for device in "ababc":
        born(few, device, "1")
    assert [origin.device for (origin, _), birth in few.changes.items() if birth is not None] == ["b", "c"]
    few = Births(most_bytes=3200)
    for device, node in ("a", "1"), ("a", "2"), *((name, "1") for name in "bcdefghijklm"):
        born(few, device, node, 60)
    for node in "1234567":
        born(few, "z", node, 60)
    assert few.size_bytes <= 3200
    mine = [origin.node for (origin, _), birth in few.changes.items() if birth is not None and origin.device == "z"]
    assert mine == ["3", "4", "5", "6", "7"] or len(mine) < 7
    with pytest.raises(DecodeError, match="births of one node"):
        born(few, "z", "1", 200)
    few.forget("z")
    assert {birth for (origin, _), birth in few.changes.items() if origin.device == "z"} == {None}
    few.died(Origin("", "nobody", "g", "1"), "")


def streams(**definitions) -> Streams:
    found = Streams()
    found.define([from_object(name, {"codec": "sparkplug", **given}) for name, given in definitions.items()])
    return found


def stored(table: Streams, topic: str, data: bytes, **about) -> list[dict]:
    """Fields as they are stored of a message of device d."""
    found = table.route(topic, "d")
    return [reading.fields for reading in found.decoder.parse(data, NOW)]


def test_births_outlive_definitions():
    """Other definitions, and the same with other keys; each definition knows all births of a node."""
    table = streams(a={"filter": "spBv1.0/{group}/{kind}/{node}/{unit...}"})
    stored(table, "spBv1.0/g/NBIRTH/n", payload({"name": "m", "alias": 1, "datatype": 1}))
    changed = [
        from_object("a", {"codec": "sparkplug", "filter": "spBv1.0/{group}/{kind}/{node}/{unit...}", "keep_days": 3}),
        from_object("b", {"codec": ["gzip", "sparkplug"], "filter": "spBv1.0/+/NDATA/{node}"}),
    ]
    table.define(changed)
    data = payload({"alias": 1, "int_value": 250}, seq=None)
    assert stored(table, "spBv1.0/g/NDATA/n", gzip.compress(data)) == [{"m": -6, "node": "n", "group": "g"}]
    table.define(changed[:1])
    assert stored(table, "spBv1.0/g/NDATA/n", data) == [{"m": -6, "group": "g", "kind": "NDATA", "node": "n"}]
    big = payload({"name": "x" * 300_000})
    with pytest.raises(DecodeError, match="limit"):
        stored(table, "spBv1.0/g/NBIRTH/n", big)
    with pytest.raises(DecodeError, match="alias"):
        stored(table, "spBv1.0/g/NDATA/n", data)


def test_levels_that_the_filter_does_not_name():
    """Metrics of two nodes or devices are told apart, whatever the filter; none is lost to a metric of its name."""
    filters = {"some": "spBv1.0/+/{group}/+/{unit...}", "none": "x/#", "state": "spBv1.0/STATE/+"}
    table = streams(**{name: {"filter": text} for name, text in filters.items()})
    data = payload({"name": "node", "datatype": 1, "int_value": 1}, seq=None)
    assert stored(table, "spBv1.0/g/DDATA/n/u", data) == [
        {"node": 1, "topic.node": "n", "group": "DDATA", "topic.group": "g", "unit": "u"}
    ]
    assert stored(table, "x/y", data) == [{"node": 1}]
    assert stored(table, "spBv1.0/STATE/h", b"ONLINE") == [{"online": True, "host": "h"}]
    table = streams(all={"filter": "spBv1.0/#"})
    assert stored(table, "spBv1.0/g/DDATA/n/u", data) == [{"node": 1, "topic.node": "n", "group": "g", "unit": "u"}]
    assert stored(table, "spBv1.0/g/NDATA/n", data) == [{"node": 1, "topic.node": "n", "group": "g"}]


async def test_replay():
    """Data wait in quarantine for a birth. What a later one says of them is marked; births of today stay in effect."""
    table, store, ledger = streams(all={"filter": "spBv1.0/{group}/{kind}/{device}/{unit...}"}), MemoryStore(), Ledger()
    received = count(NOW)

    async def send(pipeline: Pipeline, topic: str, *metrics: dict, source: str = "") -> None:
        found, batch = table.route(f"spBv1.0/g/{topic}", ""), Batch()
        bound = replace(found.decoder, source=source)
        batch.append(found.device, found.stream, next(received), payload(*metrics), bound)
        assert pipeline.offer(batch)
        await called_back(pipeline.when_settled)

    async def kept() -> list[tuple[str, str]]:
        return [(item.reason, item.detail) for item in await store.quarantined()]

    data = {"alias": 1, "int_value": 250}
    born = {"name": "m", "alias": 1, "datatype": 1, "int_value": 250}
    async with Pipeline(store, ledger) as pipeline:
        await send(pipeline, "NDATA/n", data, source="plant")
        assert await replay(store, table, Limits()) == Replayed(0, 1)
        bad = {"name": "bad", "alias": 2, "datatype": 9, "float_value": NAN}
        await send(pipeline, "NBIRTH/n", born, bad, {**bad, "name": "worse", "alias": 3}, source="plant")
        assert pipeline.parts == {"nan": 1}
        assert (ledger.totals.stored, ledger.totals.quarantined) == (1, 1)
        assert await kept() == [
            ("alias", "metric 0: no birth defines alias 1"),
            ("nan", "'bad': nan is not a number that can be kept (and 1 more)"),
        ]  # fmt: skip
        assert await replay(store, table, Limits()) == Replayed(1, 1)
        assert [(row.fields["m"], row.marks) for row in await store.newest(Selection("n"), 9)] == [
            (-6, ("birth", "partial")), (-6, ("later_birth",)),
        ]  # fmt: skip
        (item,) = await store.quarantined()
        edited = {item.id: payload({"name": "bad", "datatype": 9, "float_value": 1.5}, seq=None)}
        assert await replay(store, table, Limits(), edited=edited) == Replayed(1, 0)
        await send(pipeline, "NDATA/n", data, source="plant")  # the part was no birth
        await send(pipeline, "NDATA/n", data)
        await send(pipeline, "NBIRTH/n", {**born, "name": "k"})  # of another node with its names
        assert await replay(store, table, Limits()) == Replayed(0, 1)
        assert len(await store.newest(Selection("n"), 9)) == 5
    table.define([from_object("all", {"filter": "spBv1.0/{group}/{kind}/{device}/{unit...}", "codec": "cbor"})])
    table.births.forget("n")
    async with Pipeline(store, ledger) as pipeline:
        await send(pipeline, "NBIRTH/n", born)
        await send(pipeline, "NDATA/n", data)
        await send(pipeline, "NBIRTH/n", {**born, "name": "newer"})
    table.define([from_object("all", {"filter": "spBv1.0/{group}/{kind}/{device}/{unit...}", "codec": "sparkplug"})])
    ids = [item.id for item in await store.quarantined()]
    assert await replay(store, table, Limits(), ids[-1:]) == Replayed(1, 0)
    assert await replay(store, table, Limits(), ids[1:-1]) == Replayed(2, 0)
    newest = [(row.fields, row.marks) for row in await store.newest(Selection("n"), 3)]
    assert newest[-1][0]["newer"] == -6
    assert newest[-1][1] == ("later_birth",)


def test_a_request_for_births():
    """As the specification has it: a Boolean that is true, with its type."""
    about = {"name": "Node Control/Rebirth", "timestamp": MS, "datatype": 11, "boolean_value": True}
    assert rebirth_request(NOW) == payload(about, seq=None, timestamp=MS)
    assert rebirth_topic("g", "n") == "spBv1.0/g/NCMD/n"


async def test_births_are_on_disk_before_the_acknowledgement(tmp_path):
    """Those of nodes and devices, as they are in effect; those that ended, were forgotten, or purged are gone."""
    born = {"name": "m", "alias": 1, "datatype": 1, "int_value": 250}
    where = {"filter": "spBv1.0/{group}/{kind}/{device}/{unit...}"}

    async def opened(stack: AsyncExitStack) -> tuple[SqliteStore, Streams, KeptBirths]:
        table = streams(all=where)
        store = await stack.enter_async_context(SqliteStore(tmp_path))
        return store, table, await stack.enter_async_context(KeptBirths(table.births, store))

    async with AsyncExitStack() as stack:
        store, table, kept = await opened(stack)
        pipeline = await stack.enter_async_context(Pipeline(store, Ledger(), memory=kept))
        for topic in (
            "NBIRTH/n",
            "DBIRTH/n/u",
            "DBIRTH/n/v",
            "NBIRTH/other",
            "NDEATH/other",
            "NBIRTH/gone",
            "DDEATH/n/v",
        ):
            batch, found = Batch(), table.route(f"spBv1.0/g/{topic}", "")
            batch.append(found.device, found.stream, NOW, payload(born), found.decoder)
            pipeline.offer(batch)
        await called_back(pipeline.when_settled)
        with sqlite3.connect(tmp_path / "journal.db") as file:
            rows = file.execute("SELECT device, grp, node, unit FROM births").fetchall()
        file.close()
        assert rows == [("gone", "g", "gone", ""), ("n", "g", "n", ""), ("n", "g", "n", "u")]
        while await store.purge("gone", 100):
            pass
        table.births.forget("n")
        stored(table, "spBv1.0/g/NBIRTH/n", payload(born))
    async with AsyncExitStack() as stack:
        store, table, kept = await opened(stack)
        assert (table.births.count, table.births.changes) == (1, {})
        stored(table, "spBv1.0/g/NDATA/n", payload({"alias": 1, "int_value": 250}))
        stored(table, "spBv1.0/\udcff/NBIRTH/n", payload(born))
        await kept.keep()
        assert table.births.changes == {}
        assert table.births.count == 2


async def test_births_that_cannot_be_written_are_written_later():
    """Nothing is acknowledged before."""

    class Away:
        failures = 2

        async def keep(self) -> None:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("disk full")

    store, memory = MemoryStore(), Away()
    async with Pipeline(store, Ledger(), memory=memory) as pipeline:
        batch = Batch()
        batch.append("d", "s", NOW, b"{}")
        pipeline.offer(batch)
        await called_back(pipeline.when_settled)
        assert pipeline.retries == 2
    assert memory.failures == 0
    assert len(store.messages) == 1
