"""A list of devices, as CSV or as JSON lines -> what is to be registered, or what is wrong, row by row. Pure.

CSV has a header: `name`, then any of `display_name`, `type`, `site`, `notes`, `tags` (separated by spaces),
`certificate` or `csr` (PEM), `attributes.KEY`, `attributes.KEY:number`, `attributes.KEY:boolean`; an empty cell says
nothing. A JSON line is an object with the same names, `attributes` an object, `tags` an array.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fleet.errors import FleetError
from fleet.numbers import number_of
from fleet.registry.details import Details, InvalidDetailsError, Value, ValueKind
from fleet.registry.query.model import ATTRIBUTES

_TEXTS = ("display_name", "type", "site", "notes")
_COLUMNS = frozenset({"name", "tags", "certificate", "csr", "attributes", *_TEXTS})
_CELL_CHARACTERS = 100_000
_SHOWN = 60


class Form(StrEnum):
    """How the list is written."""

    CSV = "csv"
    JSON_LINES = "ndjson"


class InvalidListError(FleetError):
    """A list that can't be read at all; the message names the place."""


@dataclass(frozen=True, slots=True)
class Row:
    """One device of the list. `number` is the line that it begins in, from 1."""

    number: int
    name: str
    details: Details
    certificate: str | None = None
    csr: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be read, or can't be registered, and why."""

    number: int
    name: str
    problem: str


def decode(data: bytes) -> str:
    """The text of a list; raises InvalidListError that names the line where it is not UTF-8."""
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidListError(f"line {line}: not UTF-8") from None


def read(lines: Iterable[str], form: Form) -> Iterator[Row | BadRow]:
    """Read a list. Raises InvalidListError when its header can't be read; what is wrong with a row is a BadRow."""
    return _read_csv(lines) if form is Form.CSV else _read_json(lines)


def _read_csv(lines: Iterable[str]) -> Iterator[Row | BadRow]:
    csv.field_size_limit(_CELL_CHARACTERS)
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise InvalidListError(f"line 1: {error}") from None
    places = _header(header or [])
    while True:
        number = reader.line_num + 1
        try:
            if (cells := next(reader, None)) is None:
                return
        except csv.Error as error:
            yield BadRow(number, "", str(error))
            return  # where the next row begins is not known
        if not cells:
            continue
        name = cells[places.index("name")] if len(cells) > places.index("name") else ""
        if len(cells) != len(places):
            yield BadRow(number, name, f"{len(cells)} cells, where the header has {len(places)}")
            continue
        try:
            yield _row(number, _cells(places, cells))
        except InvalidDetailsError as error:
            yield BadRow(number, name, str(error))


def _header(header: list[str]) -> list[str]:
    for place in header:
        key, _, kind = place.removeprefix(ATTRIBUTES).partition(":")
        if place.startswith(ATTRIBUTES):
            if not key or kind not in {"", *ValueKind}:
                raise InvalidListError(f"line 1: {place[:_SHOWN]!r} is not {ATTRIBUTES}KEY, with :number or :boolean")
        elif place not in _COLUMNS - {"attributes"}:
            known = ", ".join(sorted(_COLUMNS - {"attributes"}))
            raise InvalidListError(f"line 1: no column {place[:_SHOWN]!r}: {known} or {ATTRIBUTES}KEY")
    meant = [place.partition(":")[0] if place.startswith(ATTRIBUTES) else place for place in header]
    for place in meant:
        if meant.count(place) > 1:
            raise InvalidListError(f"line 1: column {place!r} is there twice")
    if "name" not in header:
        raise InvalidListError("line 1: there is no column 'name'")
    return header


def _cells(places: list[str], cells: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"attributes": {}}
    for place, cell in zip(places, cells, strict=True):
        if not cell:
            continue
        if place.startswith(ATTRIBUTES):
            key, _, kind = place.removeprefix(ATTRIBUTES).partition(":")
            found["attributes"][key] = _VALUES[ValueKind(kind or "string")](place, cell)
        else:
            found[place] = cell.split() if place == "tags" else cell
    return found


def _number(place: str, cell: str) -> Value:
    if (found := number_of(cell)) is None:
        raise InvalidDetailsError(f"{place}: {cell[:_SHOWN]!r} is not a number")
    return found


def _boolean(place: str, cell: str) -> Value:
    if cell not in {"true", "false"}:
        raise InvalidDetailsError(f"{place}: {cell[:_SHOWN]!r} is not true or false")
    return cell == "true"


_VALUES: Mapping[ValueKind, Callable[[str, str], Value]] = {
    ValueKind.STRING: lambda _place, cell: cell,
    ValueKind.NUMBER: _number,
    ValueKind.BOOLEAN: _boolean,
}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice in one object")
    return found


def _read_json(lines: Iterable[str]) -> Iterator[Row | BadRow]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            yield BadRow(number, "", f"not JSON: {error}")
            continue
        if not isinstance(found, dict):
            yield BadRow(number, "", "not a JSON object")
            continue
        try:
            yield _row(number, found)
        except InvalidDetailsError as error:
            yield BadRow(number, str(found.get("name", ""))[:_SHOWN], str(error))


def _row(number: int, found: Mapping[str, Any]) -> Row:
    """Checks what things are; what they may be, the inventory checks."""
    for key in found:
        if key not in _COLUMNS:
            raise InvalidDetailsError(f"{key[:_SHOWN]}: there is no such thing")
    texts = {key: found.get(key, "") for key in ("name", "certificate", "csr", *_TEXTS)}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InvalidDetailsError(f"{key}: not a text")
    if not texts["name"]:
        raise InvalidDetailsError("name: missing")
    attributes, tags = found.get("attributes", {}), found.get("tags", [])
    if not isinstance(attributes, dict):
        raise InvalidDetailsError("attributes: not an object")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidDetailsError("tags: not a list of texts")
    details = Details(texts["display_name"], texts["type"], texts["site"], texts["notes"], attributes, tuple(tags))
    return Row(number, texts["name"], details, texts["certificate"] or None, texts["csr"] or None)
