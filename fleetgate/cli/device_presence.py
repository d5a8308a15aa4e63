"""`device presence` and `device timeline`: whether a device is there, and what happened to it."""

from typing import Annotated

import typer

from fleetgate.cli.output import print_list, print_one
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target

_COLUMNS = ("number", "time", "event", "epoch", "details")

Name = Annotated[str, typer.Argument(help="Its name.")]


def show_presence(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show whether it is there, since when and from where, and whether it sends as is expected."""
    found = run(call(target(context, state, config), "GET", at("devices", name, "presence")))
    if not as_json:
        connection = found.pop("connection")
        found |= connection or {}
    print_one(found, as_json=as_json)


def show_timeline(
    context: typer.Context,
    name: Name,
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1, max=100)] = 100,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List what happened to it, the oldest first."""
    found = run(call(target(context, state, config), "GET", at("devices", name, "timeline"), params={"limit": limit}))
    print_list(_COLUMNS, found[::-1], as_json=as_json)
