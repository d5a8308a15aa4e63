"""Fleet queries: their text, their order of versions, and errors that point at the place."""

import pytest

from fleet.registry.query import QueryError, parse, sort_key
from fleet.registry.query.model import And, Not, Op, Or, Term

NOW = 1_795_392_000_000_000
HOUR = 3_600_000_000


def term(field: str, op: str, value: str | int | bool, column: int = 1, *, quoted: bool = False) -> Term:
    return Term(field, Op(op), value, quoted, column)


GOOD = {
    "": And(),
    "  ": And(),
    "type:pump": term("type", ":", "pump"),
    'type:"a \\"b\\" \\\\ c"': term("type", ":", 'a "b" \\ c', quoted=True),
    "name:site:7": term("name", ":", "site:7"),
    "attributes.fw<1.4.0": term("attributes.fw", "<", "1.4.0"),
    "attributes.a-b.c>=3": term("attributes.a-b.c", ">=", "3"),
    "connected:true": term("connected", ":", True),
    "last_seen<now-2h": term("last_seen", "<", NOW - 2 * HOUR),
    "certificate_expires<=now+30d": term("certificate_expires", "<=", NOW + 720 * HOUR),
    "created>now": term("created", ">", NOW),
    "created>1970-01-01T01:00:00Z": term("created", ">", HOUR),
    "NOT tag:lab": Not(term("tag", ":", "lab", 5)),
    "tag:a AND tag:b OR tag:c": Or(
        (And((term("tag", ":", "a"), term("tag", ":", "b", 11))), term("tag", ":", "c", 20))
    ),
    "tag:a AND(tag:b OR tag:c)": And(
        (term("tag", ":", "a"), Or((term("tag", ":", "b", 11), term("tag", ":", "c", 20))))
    ),
    "NOT NOT ( tag:a )": Not(Not(term("tag", ":", "a", 11))),
}


@pytest.mark.parametrize("text", GOOD)
def test_what_a_query_means(text: str):
    """AND binds closer than OR; NOT closest."""
    assert parse(text, NOW) == GOOD[text]


BAD = {
    "type": (5, "expected : < <= > or >= after type, not the end"),
    "type:": (6, "expected a value of type"),
    "typo:1": (1, "no field 'typo': name, "),
    "attributes.:1": (1, "no field"),
    "type:pump AND": (14, "expected a field, NOT or ("),
    "type:pump AND NOT": (18, "expected a field, NOT or ("),
    "(type:a OR type:b": (18, "expected AND, OR or )"),
    "type:a type:b": (8, "expected AND, OR or the end, not 'type:b'"),
    "type:a)": (7, "expected AND, OR or the end"),
    'type:"a': (6, "a text without its closing"),
    'type:"a\\n"': (6, "a text without its closing"),
    "connected:yes": (11, "connected is true or false, not 'yes'"),
    "tag<3": (4, "only : compares it"),
    "connected>true": (10, "only : compares it"),
    "last_seen<soon": (11, "neither ISO 8601 nor now"),
    "last_seen<now-2": (11, "neither ISO 8601 nor now"),
    "ANDtag:a": (1, "no field"),
    "(" * 60 + "tag:a": (52, "more than 50 levels deep"),
    "x" * 5000: (4097, "longer than 4096"),
}


@pytest.mark.parametrize("text", BAD)
def test_errors_point_at_the_column(text: str):
    """And say what is expected there."""
    column, problem = BAD[text]
    with pytest.raises(QueryError) as caught:
        parse(text, NOW)
    assert caught.value.column == column
    assert problem in str(caught.value)
    assert f"column {column}:" in str(caught.value)


def test_versions_are_in_their_order():
    """By number, a pre-release before its release, more parts after fewer; a leading v means nothing."""
    ordered = ["0.9", "1", "1.4", "1.4.0-rc1", "1.4.0-rc2", "1.4.0-rc10", "1.4.0", "v1.4.1", "1.9", "1.10", "2", "10"]
    assert sorted(set(ordered), key=sort_key) == ordered
    assert sort_key("v1.04") == sort_key("1.4")
    assert sorted(["vanilla", "beta10", "alpha", "beta2"], key=sort_key) == ["alpha", "beta2", "beta10", "vanilla"]
