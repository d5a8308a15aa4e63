"""Options that say what is known about a device."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from fleetgate.errors import ArgumentError

DisplayName = Annotated[str | None, typer.Option("--display-name", help="Name to show.", show_default=False)]
Type = Annotated[str | None, typer.Option("--type", help="Its device type.", show_default=False)]
Site = Annotated[str | None, typer.Option("--site", help="Where it is.", show_default=False)]
Notes = Annotated[str | None, typer.Option("--notes", help="Free text.", show_default=False)]
Attributes = Annotated[
    list[str] | None,
    typer.Option("--attribute", help="KEY=TEXT, or KEY:=JSON for a number, true or false; repeat for more."),
]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; repeat for more.")]
Without = Annotated[list[str] | None, typer.Option("--without", help="KEY of an attribute to remove.")]
NoTags = Annotated[bool, typer.Option("--no-tags", help="Remove all tags.")]


def attributes_of(given: Iterable[str]) -> dict[str, Any]:
    """Read `key=text` and `key:=json`. Raises ArgumentError."""
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.removesuffix(":"):
            raise ArgumentError(f"--attribute: {text!r} is neither KEY=TEXT nor KEY:=JSON")
        if key.removesuffix(":") in found:
            raise ArgumentError(f"--attribute: {key.removesuffix(':')!r} is given twice")
        if not key.endswith(":"):
            found[key] = value
            continue
        try:
            found[key.removesuffix(":")] = json.loads(value)
        except ValueError:
            raise ArgumentError(
                f"--attribute: {value!r} is not JSON; a text goes with {key.removesuffix(':')}="
            ) from None
    return found


def change_of(
    attributes: list[str] | None,
    without: list[str] | None,
    tags: list[str] | None,
    *,
    no_tags: bool,
    **texts: str | None,
) -> dict[str, Any]:
    """What the API takes as a change of a device; nothing where nothing was given. Raises ArgumentError."""
    if no_tags and tags:
        raise ArgumentError("--tag and --no-tags exclude each other")
    if both := {*(without or [])} & set(attributes_of(attributes or [])):
        raise ArgumentError(f"--attribute and --without exclude each other: {', '.join(sorted(both))}")
    changed = {**dict.fromkeys(without or []), **attributes_of(attributes or [])}
    return given_only(**texts, tags=[] if no_tags else tags or None, attributes=changed or None)


def given_only(**given: Any) -> dict[str, Any]:
    """Leave out what was not given."""
    return {key: value for key, value in given.items() if value is not None}
