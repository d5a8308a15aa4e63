"""`template`: what devices are registered as that provision themselves."""

from typing import Annotated

import typer

from fleet.provisioning.template import read_template
from fleetgate.cli.files import File, read_document
from fleetgate.cli.output import print_json, print_list, print_one, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, call, run, target

_COLUMNS = ("name", "version", "document")

Name = Annotated[str, typer.Argument(help="Its name.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="What devices are registered as that provision themselves.", no_args_is_help=True)
    commands.command("list")(_list)
    commands.command("show")(_show)
    commands.command("set")(_set)
    commands.command("delete")(_delete)
    app.add_typer(commands, name="template")


def _list(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """List them all."""
    print_list(_COLUMNS, run(call(target(context, state, config), "GET", "/templates")), as_json=as_json)


def _show(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show one."""
    print_one(run(call(target(context, state, config), "GET", f"/templates/{name}")), as_json=as_json)


def _set(
    context: typer.Context,
    name: Name,
    document: File,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make one, or change it: JSON or YAML."""
    body = {"document": read_document(document, read_template)}
    found = run(call(target(context, state, config), "PUT", f"/templates/{name}", json=body))
    if as_json:
        print_json(found)
    else:
        say(f"template {name} has version {found['version']}")


def _delete(context: typer.Context, name: Name, state: StateOption = None, config: ConfigOption = None) -> None:
    """Delete one that no claim and no authority needs."""
    run(call(target(context, state, config), "DELETE", f"/templates/{name}"))
    say(f"deleted template {name}")
