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


def attributes_of(given: Iterable[str]) -> dict[str, Any]:
    """Read `key=text` and `key:=json`. Raises ArgumentError."""
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.removesuffix(":"):
            raise ArgumentError(f"--attribute: {text!r} is neither KEY=TEXT nor KEY:=JSON")
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


def given_only(**given: Any) -> dict[str, Any]:
    """Leave out what was not given."""
    return {key: value for key, value in given.items() if value is not None}
