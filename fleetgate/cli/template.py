"""`template`: what devices are registered as that provision themselves."""

from typing import Annotated

import typer

from fleet.provisioning.template import read_template
from fleetgate.cli.commands import add_delete, add_list, add_show
from fleetgate.cli.files import File, read_document
from fleetgate.cli.output import print_json, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target

_COLUMNS = ("name", "version", "document")

Name = Annotated[str, typer.Argument(help="Its name.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="What devices are registered as that provision themselves.", no_args_is_help=True)
    add_list(commands, "/templates", _COLUMNS)
    add_show(commands, "/templates")
    add_delete(commands, "/templates", "template", "Delete one that no claim and no authority needs.")
    commands.command("set")(_set)
    app.add_typer(commands, name="template")


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
    found = run(call(target(context, state, config), "PUT", at("templates", name), json=body))
    if as_json:
        print_json(found)
    else:
        say(f"template {name} has version {found['version']}")
