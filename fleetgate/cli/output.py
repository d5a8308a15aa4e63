"""Printing: data on stdout as a table, JSON or CSV; everything else on stderr."""

import csv
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

progress_console = Console(stderr=True)


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def print_done(found: Any, text: str, *, as_json: bool) -> None:
    """What came of a change: as JSON, or one line."""
    if as_json:
        print_json(found)
    else:
        say(text)


def say(text: str) -> None:
    """Print a remark for the person, not for the next program."""
    progress_console.print(Text(text), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON value."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


class Rows:
    """Prints rows as they come: columns are known, rows are objects. Use as a context manager."""

    def __init__(self, columns: Sequence[str], form: Format) -> None:
        self._columns = columns
        self._form = form
        self._count = 0
        self._csv = csv.writer(sys.stdout)
        self._table: list[dict[str, Any]] = []

    def __enter__(self) -> "Rows":
        if self._form is Format.CSV:
            self._csv.writerow(self._columns)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._form is Format.JSON and kind is None:
            sys.stdout.write("\n]\n" if self._count else "[]\n")
        elif self._form is Format.TABLE:
            self._print_table()

    def add(self, row: dict[str, Any]) -> None:
        """Print one row, or keep it for the table."""
        if self._form is Format.JSON:
            sys.stdout.write(("[\n" if not self._count else ",\n") + orjson.dumps(row).decode())
        elif self._form is Format.CSV:
            self._csv.writerow([_cell(row.get(column)) for column in self._columns])
        else:
            self._table.append(row)
            if len(self._table) == _TABLE_ROWS:
                self._print_table()
        self._count += 1

    def _print_table(self) -> None:
        if self._table or not self._count:
            print_table(self._columns, self._table)
            self._table = []


_TABLE_ROWS = 500
"""A longer table is printed in parts, each with its header: it need not be kept whole."""


def print_table(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Print rows as a table, as wide as the terminal; where stdout is none, as wide as it needs to be."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(_cell(row.get(column)))) for column in columns))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def print_list(columns: Sequence[str], found: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print all rows, as JSON or as a table."""
    if as_json:
        print_json(found)
    else:
        print_table(columns, found)


def print_one(found: dict[str, Any], *, as_json: bool) -> None:
    """Print one thing, as JSON or as a table with a line for each of its fields."""
    if as_json:
        print_json(found)
    else:
        print_table(("", "value"), [{"": key, "value": value} for key, value in found.items()])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def _printable(text: str) -> str:
    """Text from devices must not steer the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
