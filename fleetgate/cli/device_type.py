"""`type`: device types, and what their devices must have."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fleetgate.cli.commands import add_delete, add_list, add_show
from fleetgate.cli.details import given_only
from fleetgate.cli.files import read_json
from fleetgate.cli.output import print_json, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target
from fleetgate.errors import ArgumentError

_COLUMNS = ("name", "required", "messages_per_minute", "description", "version")

Name = Annotated[str, typer.Argument(help="Its name.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Device types, and what their devices must have.", no_args_is_help=True)
    add_list(commands, "/types", _COLUMNS)
    add_show(commands, "/types")
    commands.command("set")(_set)
    add_delete(commands, "/types", "type", "Delete one that no device has.")
    app.add_typer(commands, name="type")


def _set(
    context: typer.Context,
    name: Name,
    required: Annotated[
        list[str] | None, typer.Option("--require", help="KEY=string, number or boolean; repeat for more.")
    ] = None,
    telemetry: Annotated[
        Path | None, typer.Option(help="File with the JSON Schema of its telemetry.", show_default=False)
    ] = None,
    messages_per_minute: Annotated[
        float | None, typer.Option(help="Messages expected of a device.", show_default=False)
    ] = None,
    description: Annotated[str | None, typer.Option(help="What it is.", show_default=False)] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a type, or set it anew: what is not given is not required."""
    body = given_only(
        description=description,
        required=dict(map(_requirement, required or [])),
        telemetry=None if telemetry is None else _schema(telemetry),
        messages_per_minute=messages_per_minute,
    )
    found = run(call(target(context, state, config), "PUT", at("types", name), json=body))
    if as_json:
        print_json(found)
    else:
        say(f"type {name} is version {found['version']}")


def _requirement(text: str) -> tuple[str, str]:
    key, equals, kind = text.partition("=")
    if not key or not equals:
        raise ArgumentError(f"--require: {text!r} is not KEY=string, KEY=number or KEY=boolean")
    return key, kind


def _schema(path: Path) -> Any:
    return read_json(path)
