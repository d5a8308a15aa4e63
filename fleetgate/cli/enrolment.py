"""`enrolment`: lists of devices that may come, by serial number or key."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.provisioning.model import ListKind
from fleetgate.cli.commands import add_delete, add_list
from fleetgate.cli.files import read_text
from fleetgate.cli.output import print_json, print_list, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, api, at, call, run, target
from fleetgate.errors import ArgumentError

_COLUMNS = ("name", "kind", "entries", "come")
_ENTRIES = ("value", "site", "type", "groups", "attributes", "device", "used")
_KNOWN = ("value", "site", "type", "groups")
_ATTRIBUTE = "attributes."
_MOST = 10_000
_PAGE = 1000

Name = Annotated[str, typer.Argument(help="Its name.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Lists of devices that may come.", no_args_is_help=True)
    add_list(commands, "/enrolment-lists", _COLUMNS, "List the lists.")
    add_delete(commands, "/enrolment-lists", "enrolment list", "Delete a list; devices that came by it stay.")
    commands.command("show")(_show)
    commands.command("set")(_set)
    app.add_typer(commands, name="enrolment")


def _show(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show who is on a list, and who has come."""

    async def entries() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with api(target(context, state, config)) as owner:
            while True:
                params = {"after": found[-1]["value"] if found else "", "limit": _PAGE}
                page = await owner.call("GET", at("enrolment-lists", name), params=params)
                found += page
                if len(page) < _PAGE:
                    return found

    print_list(_ENTRIES, run(entries()), as_json=as_json)


def _set(
    context: typer.Context,
    name: Name,
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV with a header: value, then any of site, type, groups (separated by"
            " spaces), attributes.KEY; - for standard input."
        ),
    ],
    kind: Annotated[ListKind, typer.Option(help="What is in value: serial numbers, or SHA-256 of public keys.")] = (
        ListKind.SERIAL
    ),
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a list, or add to it: all of the file, or nothing."""
    body = {"kind": kind, "entries": list(_entries(read_text(file), str(file)))}
    found = run(call(target(context, state, config), "PUT", at("enrolment-lists", name), json=body))
    if as_json:
        print_json(found)
    else:
        say(f"enrolment list {name}: {found['entries']} devices, {found['come']} have come")


def _entries(text: str, file: str) -> Iterator[dict[str, Any]]:
    rows = csv.DictReader(text.splitlines())
    columns = rows.fieldnames or []
    if "value" not in columns:
        raise ArgumentError(f"{file}: line 1: no column named value")
    for column in columns:
        if column not in _KNOWN and not column.startswith(_ATTRIBUTE):
            raise ArgumentError(
                f"{file}: line 1: unknown column {column[:80]!r}; known are {', '.join(_KNOWN)}, attributes.KEY"
            )
    seen: set[str] = set()
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ArgumentError(f"{file}: line {number}: {len(columns)} fields are wanted")
        if not row["value"] or row["value"] in seen:
            raise ArgumentError(f"{file}: line {number}: value is {'there twice' if row['value'] else 'empty'}")
        if len(seen) == _MOST:
            raise ArgumentError(f"{file}: line {number}: more than {_MOST} devices: add them in parts")
        seen.add(row["value"])
        attributes = {
            column.removeprefix(_ATTRIBUTE): value
            for column, value in row.items()
            if column.startswith(_ATTRIBUTE) and value
        }
        known = {column: row[column] for column in ("value", "site", "type") if row.get(column)}
        yield {**known, "groups": row.get("groups", "").split(), "attributes": attributes}
