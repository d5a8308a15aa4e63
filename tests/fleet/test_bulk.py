"""Lists of devices: read row by row, registered all or none."""

import io

import pytest
from cryptography import x509

from fleet.authority import read_certificate
from fleet.errors import InvalidCertificateError
from fleet.identity import Kind
from fleet.provisioning.bulk import register
from fleet.provisioning.rows import BadRow, Form, InvalidListError, Row, decode, read
from fleet.registry.details import Details, ValueKind
from fleet.registry.types import DeviceType
from tests.fleet.pki import certificate, pem
from tests.fleet.test_inventory import Fleet, fleet

__all__ = ["fleet"]

CSV = """name,display_name,type,site,notes,tags,attributes.fw,attributes.floor:number,attributes.on:boolean
p1,Pump 1,pump,hall,"two
lines",a b,1.0,3,true
p2,,,,,,,,

p3,,,,,,,1.5,false
"""
NDJSON = """{"name": "p1", "display_name": "Pump 1", "type": "pump", "tags": ["a"], "attributes": {"fw": "1.0", "n": 3}}

{"name": "p2"}
"""


def rows(text: str, form: Form = Form.CSV) -> list[Row | BadRow]:
    return list(read(io.StringIO(text, newline=""), form))


def test_a_list_as_csv():
    """Empty cells say nothing; a row is named by the line that it begins in."""
    first = Details("Pump 1", "pump", "hall", "two\nlines", {"fw": "1.0", "floor": 3, "on": True}, ("a", "b"))
    third = Details(attributes={"floor": 1.5, "on": False})
    assert rows(CSV) == [Row(2, "p1", first), Row(4, "p2", Details()), Row(6, "p3", third)]
    assert rows("name\n") == []


def test_a_list_as_json_lines():
    """An object a line."""
    first = Details("Pump 1", "pump", attributes={"fw": "1.0", "n": 3}, tags=("a",))
    assert rows(NDJSON, Form.JSON_LINES) == [Row(1, "p1", first), Row(3, "p2", Details())]


BAD_LISTS = {
    "": "line 1: there is no column 'name'",
    "site,tags\n": "line 1: there is no column 'name'",
    "name,color\n": "line 1: no column 'color': certificate, csr, display_name,",
    "name,attributes\n": "line 1: no column 'attributes'",
    "name,attributes.\n": "line 1: 'attributes.' is not",
    "name,attributes.a:date\n": "line 1: 'attributes.a:date' is not",
    "name,site,site\n": "line 1: column 'site' is there twice",
    '"name\n': "line 1: unexpected end of data",
}


@pytest.mark.parametrize("text", BAD_LISTS)
def test_a_header_that_can_not_be(text: str):
    """One clear error with the place."""
    with pytest.raises(InvalidListError) as caught:
        rows(text)
    assert str(caught.value).startswith(BAD_LISTS[text])


def test_text_that_is_none():
    """The line where it is not UTF-8 is named; a byte order mark is nothing."""
    assert decode(b"\xef\xbb\xbfname\n") == "name\n"
    with pytest.raises(InvalidListError, match="line 3: not UTF-8"):
        decode(b"name\np1\np\xfc2\n")


BAD_ROWS = {
    ("name,site\np1\n", Form.CSV): BadRow(2, "p1", "1 cells, where the header has 2"),
    ("site,name\nx\n", Form.CSV): BadRow(2, "", "1 cells, where the header has 2"),
    ("name\n,\n", Form.CSV): BadRow(2, "", "2 cells, where the header has 1"),
    ('name\n""\n', Form.CSV): BadRow(2, "", "name: missing"),
    ('name\n"p1\n', Form.CSV): BadRow(2, "", "unexpected end of data"),
    ("name,attributes.n:number\np1,x\n", Form.CSV): BadRow(2, "p1", "attributes.n:number: 'x' is not a number"),
    ("name,attributes.b:boolean\np1,yes\n", Form.CSV): BadRow(
        2, "p1", "attributes.b:boolean: 'yes' is not true or false"
    ),
    ("[1]", Form.JSON_LINES): BadRow(1, "", "not a JSON object"),
    ('{"name": "p1", "color": 1}', Form.JSON_LINES): BadRow(1, "p1", "color: there is no such thing"),
    ('{"name": 1}', Form.JSON_LINES): BadRow(1, "1", "name: not a text"),
    ('{"name": "p1", "certificate": 1}', Form.JSON_LINES): BadRow(1, "p1", "certificate: not a text"),
    ('{"name": "p1", "attributes": []}', Form.JSON_LINES): BadRow(1, "p1", "attributes: not an object"),
    ('{"name": "p1", "tags": "a"}', Form.JSON_LINES): BadRow(1, "p1", "tags: not a list of texts"),
    ('{"name": "p1", "tags": [1]}', Form.JSON_LINES): BadRow(1, "p1", "tags: not a list of texts"),
}


@pytest.mark.parametrize("text", BAD_ROWS)
def test_a_row_that_can_not_be(text: tuple[str, Form]):
    """Named by its line and what is wrong."""
    assert rows(*text) == [BAD_ROWS[text]]


def test_json_that_is_none():
    """Too deep is as bad as broken; the next line goes on."""
    found = rows('{"name": \n' + "[" * 100_000 + '\n{"name": "p1"}\n', Form.JSON_LINES)
    assert [(row.number, row.name) for row in found] == [(1, ""), (2, ""), (3, "p1")]
    assert all(row.problem.startswith("not JSON") for row in found[:2] if isinstance(row, BadRow))


async def accept(row: Row) -> list[x509.Certificate]:
    """Any certificate will do."""
    return [read_certificate((row.certificate or "").encode())]


async def test_a_list_is_registered(fleet: Fleet):
    """With what is known and their certificates; a dry run says the same and registers nobody."""
    await fleet.types.put(DeviceType("pump", required={"fw": ValueKind.STRING}))
    made = certificate(uris=("spiffe://fleetgate.local/device/p4",))
    listed = [*rows(CSV), Row(7, "p4", Details(), pem(made).decode())]
    for dry_run in (True, False):
        assert await fleet.find("") == []
        report = await register(fleet.registry, fleet.inventory, listed, accept, dry_run=dry_run)
        assert (report.rows, report.added, report.bad_count) == (4, 4, 0)
    assert await fleet.find("attributes.fw:1.0 OR name:p4") == ["p1", "p4"]
    assert len(fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "p4"))) == 1
    text = pem(certificate(cn="q")).decode()
    twice = [Row(number, f"q{number}", Details(), text) for number in (1, 2)]
    report = await register(fleet.registry, fleet.inventory, twice, accept)
    assert (report.bad_count, "registered already, for q1" in report.bad[0].problem) == (1, True)


async def test_a_bad_row_stops_the_list_or_is_left_out(fleet: Fleet):
    """By choice; each is named with its problem."""
    await fleet.add("known")
    made = pem(certificate(uris=("spiffe://fleetgate.local/device/other",))).decode()

    async def refuse(row: Row) -> list[x509.Certificate]:
        read_certificate((row.certificate or "").encode())
        raise InvalidCertificateError("not yours")

    listed = [
        BadRow(2, "x", "broken"),
        Row(3, "good", Details()),
        Row(4, "good", Details()),
        Row(5, "known", Details()),
        Row(6, "a/b", Details()),
        Row(7, "typed", Details(type="nothing")),
        Row(8, "certified", Details(), made),
        Row(9, "broken", Details(), "no PEM"),
    ]
    report = await register(fleet.registry, fleet.inventory, listed, refuse)
    assert (report.rows, report.added, report.bad_count) == (8, 0, 7)
    problems = {row.number: row.problem for row in report.bad}
    for number, words in {
        2: "broken",
        4: "registered already",
        5: "registered already",
        6: "not a device name",
        7: "type: no type named 'nothing'",
        8: "not yours",
        9: "certificate",
    }.items():
        assert words in problems[number]
    assert await fleet.find("") == ["known"]
    seen: list[int] = []
    report = await register(fleet.registry, fleet.inventory, listed * 200, refuse, skip_bad=True, progress=seen.append)
    assert (report.added, report.bad_count, len(report.bad)) == (1, 1599, 1000)
    assert seen[-1] == 1600
    assert await fleet.find("") == ["good", "known"]
