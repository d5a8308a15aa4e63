"""Fleet queries find what a slow and obvious reading of them finds."""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.identity import Kind
from fleet.registry import Groups, Inventory, Registry, Types
from fleet.registry.database import Database
from fleet.registry.details import Details, Value
from fleet.registry.groups import Group
from fleet.registry.postgres import PostgresDatabase
from fleet.registry.query import QueryError, parse, sort_key
from fleet.registry.query.model import And, Not, Op, Or, Query, Term
from fleet.registry.types import DeviceType
from tests.fleet.pki import certificate

NOW = 1_795_392_000_000_000
HOUR = 3_600_000_000


@dataclass(frozen=True)
class Device:
    """What the reference knows."""

    name: str
    type: str
    site: str
    attributes: dict[str, Value]
    tags: tuple[str, ...]
    groups: frozenset[str]
    connected: bool
    last_seen: int | None
    expires: list[int] = field(default_factory=list)


FIRMWARE = ("1.4.0", "1.4.0-rc1", "1.10", "v2", "x")
DEVICES = [
    Device(
        f"d{number:02}",
        ("", "pump", "valve")[number % 3],
        ("", "hall-1", "hall-12", "HALL-1")[number % 4],
        {
            key: value
            for key, value in {
                "fw": FIRMWARE[number % 5],
                "floor": (number % 4, number / 4, "3", True)[number % 4],
                "spare": number % 2 == 0,
            }.items()
            if (number + len(key)) % 7
        },
        tuple(tag for position, tag in enumerate(("lab", "old", "lab-2")) if number >> position & 1),
        frozenset(name for name, divisor in (("east", 2), ("west", 3)) if number % divisor == 0),
        number % 4 == 1,
        None if number % 5 == 0 else NOW - number * HOUR // 2,
        [] if number % 6 else [0],
    )
    for number in range(36)
]
BY_NAME = {device.name: device for device in DEVICES}


class _Live:
    def connected(self, device: str) -> bool:
        return BY_NAME[device].connected

    def last_seen(self, device: str) -> int | None:
        return BY_NAME[device].last_seen

    def last_data(self, device: str) -> int | None:
        return _last_data(BY_NAME[device])

    def condition(self, device: str) -> str | None:
        return _condition(BY_NAME[device])

    def names(self) -> Iterable[str]:
        return BY_NAME


def found_by(query: Query, device: Device) -> bool:
    """The reference: one device, one part of the query at a time."""
    match query:
        case And(parts):
            return all(found_by(part, device) for part in parts)
        case Or(parts):
            return any(found_by(part, device) for part in parts)
        case Not(part):
            return not found_by(part, device)
        case Term():
            return _term(query, device)


def _condition(device: Device) -> str | None:
    return (None, "late", "silent")[sum(map(ord, device.name)) % 3]


def _term(term: Term, device: Device) -> bool:
    if term.field == "condition":
        found = _condition(device)
        return found is not None and _text(term, found)
    if term.field.startswith("attributes."):
        key = term.field.removeprefix("attributes.")
        return key in device.attributes and _attribute(term, device.attributes[key])
    if term.field == "tag":
        return any(_text(term, tag) for tag in device.tags)
    if term.field == "group":
        inside = {"east", "west"} if term.value == "both" else {term.value}
        return bool(inside & device.groups) or (term.value == "pumps" and device.type == "pump")
    if term.field == "connected":
        return device.connected is term.value
    if term.field == "last_seen":
        return device.last_seen is not None and _compared(term.op, device.last_seen, term.value)
    if term.field == "last_data":
        last_data = _last_data(device)
        return last_data is not None and _compared(term.op, last_data, term.value)
    if term.field == "certificate_expires":
        return any(_compared(term.op, expires, term.value) for expires in device.expires)
    held = {"name": device.name, "type": device.type, "site": device.site, "state": "registered"}[term.field]
    return _text(term, held) if term.op is Op.IS else _compared(term.op, held, term.value)


def _last_data(device: Device) -> int | None:
    """It was connected again after it sent something."""
    return None if device.last_seen is None else device.last_seen - 5_000_000


def _attribute(term: Term, value: Value) -> bool:
    number = None if term.quoted else _number(str(term.value))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if term.op is Op.IS:
        shown = value if isinstance(value, str) else json.dumps(value)
        return _text(term, shown) or (is_number and value == number)
    if isinstance(value, str):
        return _compared(term.op, sort_key(value), sort_key(str(term.value)))
    return is_number and number is not None and _compared(term.op, value, number)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(term: Term, held: str) -> bool:
    wanted = str(term.value)
    if term.quoted or "*" not in wanted:
        return held == wanted
    if wanted == "*":
        return held != ""
    return re.fullmatch(".*".join(map(re.escape, wanted.split("*"))), held, re.DOTALL) is not None


def _compared(op: Op, held, wanted) -> bool:
    return {
        Op.IS: held == wanted,
        Op.BELOW: held < wanted,
        Op.AT_MOST: held <= wanted,
        Op.ABOVE: held > wanted,
        Op.AT_LEAST: held >= wanted,
    }[op]


ops = st.sampled_from([":", "<", "<=", ">", ">="])
times = st.sampled_from(["now", "now-2h", "now-3h", "now-10h", "now+1d", "1970-01-01T00:00:00Z"])
words = st.sampled_from(["pump", "hall-1", "hall-1*", "HALL*", "*", "*1*", "d0*", "d1[0-9]", "d?1", '"hall-1*"', '""'])
values = st.sampled_from(
    ["1.4.0", "1.4", '"1.4.0-rc1"', "2", "3", '"3"', "1.25", "true", "1*", "*", "-1", "nan", "1e3"]
)
terms = (
    st.builds("{}{}{}".format, st.sampled_from(["name", "type", "site", "state"]), ops, words)
    | st.builds("attributes.{}{}{}".format, st.sampled_from(["fw", "floor", "spare", "none"]), ops, values)
    | st.sampled_from(["tag:lab", "tag:lab*", 'tag:"lab*"', "tag:*", "tag:none", "connected:true", "connected:false"])
    | st.sampled_from(["condition:late", "condition:silent", "condition:*", "condition:on_time"])
    | st.sampled_from(["group:east", "group:west", "group:both", "group:pumps"])
    | st.builds("{}{}{}".format, st.sampled_from(["last_seen", "last_data", "certificate_expires"]), ops, times)
)
queries = st.recursive(
    terms,
    lambda inner: (
        st.builds("({} AND {})".format, inner, inner)
        | st.builds("{} OR {}".format, inner, inner)
        | st.builds("NOT ({})".format, inner)
        | st.builds("NOT {}".format, inner)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """A loop for all examples."""
    with asyncio.Runner() as found:
        yield found


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def inventory(request, runner: asyncio.Runner, tmp_path_factory) -> Iterator[Inventory]:
    """The devices, in a real fleet.db and in a real PostgreSQL."""
    database = Database(tmp_path_factory.mktemp("fleet") / "fleet.db")
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
        database = PostgresDatabase(tmp_path_factory.mktemp("fleet") / "fleet.db", url)
    registry = Registry(database, lambda: NOW)
    types, groups = Types(registry.database), Groups(registry, lambda: NOW)

    async def fill() -> Inventory:
        await registry.__aenter__()
        registry.database.live = _Live()
        await types.__aenter__()
        await groups.__aenter__()
        for name in ("pump", "valve"):
            await types.put(DeviceType(name))
        for group in (Group("both"), Group("east", "both"), Group("west", "both"), Group("pumps", query="type:pump")):
            await groups.put(group)
        found = Inventory(registry, types, groups)
        for device in DEVICES:
            made = None
            if device.expires:
                made = certificate(uris=(f"spiffe://fleetgate.local/device/{device.name}",))
                device.expires[:] = [int(made.not_valid_after_utc.timestamp()) * 1_000_000]
            known = found.check(Details("", device.type, device.site, "", device.attributes, device.tags))
            await registry.add(Kind.DEVICE, device.name, made, details=known)
            for group_name in device.groups:
                await groups.put_in(group_name, [device.name])
        return found

    yield runner.run(fill())
    runner.run(registry.__aexit__())


@given(queries)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_query_finds_what_it_says(runner: asyncio.Runner, inventory: Inventory, text: str):
    """Compared with the reference; its count too, and pages are parts of the whole."""
    query = parse(text, NOW)
    expected = [device.name for device in DEVICES if found_by(query, device)]
    assert runner.run(inventory.find(text, "", 1000)) == expected
    assert runner.run(inventory.count(text)) == len(expected)
    assert runner.run(inventory.find(text, "d09", 5)) == [name for name in expected if name > "d09"][:5]


@given(st.text(max_size=80) | st.text(alphabet='abtyper:<>=()"\\* .-1ANDORNOT', max_size=80))
@settings(max_examples=2000, deadline=None)
def test_any_text_is_a_query_or_a_clear_error(text: str):
    """Never anything else."""
    try:
        parse(text, NOW)
    except QueryError as error:
        assert 1 <= error.column <= len(text) + 1
