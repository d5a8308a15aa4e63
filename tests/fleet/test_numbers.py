"""Numbers in documents, lists and queries; and that nothing there is said twice without a word."""

import pytest

from fleet.numbers import number_of
from fleet.policy.condition import _number
from fleet.policy.pattern import PolicyError
from fleet.provisioning.rows import BadRow, Form, InvalidListError, Row, read
from fleetgate.cli.details import attributes_of, change_of
from fleetgate.errors import ArgumentError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("-7", -7), ("+7", 7), ("007", 7), ("21.5", 21.5), (".5", 0.5), ("5.", 5.0), ("1e3", 1000.0),
    ("1E-2", 0.01),
     ("9007199254740993", 9_007_199_254_740_993)],
)  # fmt: skip
def test_decimals(text: str, expected):
    """Integers stay integers."""
    found = number_of(text)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    "text",
    ["", " 5", "5 ", "5\n", "nan", "inf", "-Infinity", "1_000", "1e400", "0x10", "\u0663", "1,5", ".", "e5", "--5",
    "1e", "9" * 301],
)  # fmt: skip
def test_what_is_no_number(text: str):
    """Words, blanks, digits of other scripts, and what a float can't hold; policies refuse it too."""
    assert number_of(text) is None
    with pytest.raises(PolicyError, match="is not a number"):
        _number(text, "here")


@pytest.mark.parametrize("value", [True, None, [], float("nan"), float("inf"), 10**400])
def test_values_of_policies_that_are_no_numbers(value):
    """Whatever JSON or YAML can say."""
    with pytest.raises(PolicyError, match="is not a number"):
        _number(value, "here")


def test_numbers_of_policies():
    """As text, as YAML has them all, or as JSON's own."""
    assert [_number(value, "here") for value in ("1e3", "007", 5, 2.5)] == [1000.0, 7.0, 5.0, 2.5]


@pytest.mark.parametrize(
    "header", ["name,attributes.k,attributes.k:number", "name,attributes.k:number,attributes.k:boolean"]
)
def test_a_column_twice(header: str):
    """With and without its kind it is the same attribute."""
    with pytest.raises(InvalidListError, match=r"'attributes\.k' is there twice"):
        list(read([header, "a,1,2"], Form.CSV))


def test_names_with_leading_zeros():
    """Cells are texts unless the column says otherwise."""
    (row,) = read(
        ["name,site,attributes.serial,attributes.v,attributes.n:number", "0012,007,0004512345,1.10,007"], Form.CSV
    )
    assert isinstance(row, Row)
    assert (row.name, row.details.site) == ("0012", "007")
    assert row.details.attributes == {"serial": "0004512345", "v": "1.10", "n": 7}
    (bad,) = read(["name,attributes.n:number", "a,1_000"], Form.CSV)
    assert isinstance(bad, BadRow)


@pytest.mark.parametrize("line", ['{"name":"a","name":"b"}', '{"name":"a","attributes":{"k":1,"k":2}}'])
def test_a_name_twice_in_a_line(line: str):
    """One is not taken for the other."""
    (found,) = read([line], Form.JSON_LINES)
    assert isinstance(found, BadRow)
    assert "twice" in found.problem


def test_attributes_of_the_command_line():
    """Text with =, JSON with :=; one key once."""
    assert attributes_of(["a=007", "b:=7", "c=1e5"]) == {"a": "007", "b": 7, "c": "1e5"}
    with pytest.raises(ArgumentError, match="'a' is given twice"):
        attributes_of(["a=1", "a:=2"])
    with pytest.raises(ArgumentError, match="exclude each other: a"):
        change_of(["a=1"], ["a"], None, no_tags=False)
