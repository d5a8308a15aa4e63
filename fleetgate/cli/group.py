"""`group`: groups of devices, static and by a query."""

from typing import Annotated, Any

import typer

from fleetgate.cli.commands import add_delete, add_list, add_show
from fleetgate.cli.details import given_only
from fleetgate.cli.output import print_json, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target

_COLUMNS = ("name", "parent", "query", "description", "version")

Name = Annotated[str, typer.Argument(help="Its name.")]
Devices = Annotated[list[str], typer.Argument(help="Names of devices.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Groups of devices, static and by a query.", no_args_is_help=True)
    add_list(commands, "/groups", _COLUMNS)
    add_show(commands, "/groups", "Show one; its devices: `device list --query group:NAME`.")
    add_delete(commands, "/groups", "group", "Delete one; its devices stay.")
    commands.command("set")(_set)
    commands.command("add")(_add)
    commands.command("remove")(_remove)
    app.add_typer(commands, name="group")


def _set(
    context: typer.Context,
    name: Name,
    query: Annotated[
        str | None, typer.Option(help="Fleet query that says which devices it has.", show_default=False)
    ] = None,
    parent: Annotated[str | None, typer.Option(help="The group above it.", show_default=False)] = None,
    description: Annotated[str | None, typer.Option(help="What it is.", show_default=False)] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a group, or set it anew: static, or with --query dynamic."""
    body = given_only(query=query, parent=parent, description=description)
    _tell(run(call(target(context, state, config), "PUT", at("groups", name), json=body)), as_json=as_json)


def _add(
    context: typer.Context,
    name: Name,
    devices: Devices,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Put devices into a static group."""
    body = {"devices": devices}
    _tell(run(call(target(context, state, config), "POST", at("groups", name, "devices"), json=body)), as_json=as_json)


def _remove(
    context: typer.Context,
    name: Name,
    devices: Devices,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Take devices out of a static group."""
    on, path = target(context, state, config), at("groups", name, "devices", "remove")
    _tell(run(call(on, "POST", path, json={"devices": devices})), as_json=as_json)


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        say(f"group {found['name']} has {found['devices']} devices")
