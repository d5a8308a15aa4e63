"""`lifecycle`: rules of the life of devices."""

import sys
from typing import Annotated

import typer

from fleet.lifecycle.model import read_rule
from fleetgate.cli.commands import add_action, add_delete, add_list, add_show
from fleetgate.cli.files import File, read_document
from fleetgate.cli.output import print_json, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target

_COLUMNS = ("name", "version", "enabled", "tried", "ran", "problem", "document")

Name = Annotated[str, typer.Argument(help="Its name.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Rules of the life of devices.", no_args_is_help=True)
    add_list(commands, "/lifecycle-rules", _COLUMNS)
    add_show(commands, "/lifecycle-rules")
    add_delete(commands, "/lifecycle-rules", "rule", "Delete one; what it did stays.")
    commands.command("set")(_set)
    for action, summary in (("enable", "Let one run by itself; it has to run dry first."), ("disable", "Stop one.")):
        add_action(commands, "/lifecycle-rules", action, summary)
    commands.command("run")(_run)
    app.add_typer(commands, name="lifecycle")


def _set(
    context: typer.Context,
    name: Name,
    document: File,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make one, or change it: JSON or YAML. It does nothing until it ran dry and is enabled."""
    body = {"document": read_document(document, read_rule)}
    found = run(call(target(context, state, config), "PUT", at("lifecycle-rules", name), json=body))
    if as_json:
        print_json(found)
    else:
        say(f"rule {name} has version {found['version']}: see what it would do with lifecycle run {name} --dry-run")


def _run(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Do now what an enabled one says, or with --dry-run say what it would do."""
    path = at("lifecycle-rules", name, "dry-run" if dry_run else "run")
    found = run(call(target(context, state, config), "POST", path, timeout=None))
    if as_json:
        print_json(found)
        return
    sys.stdout.write("".join(f"{found['then']} {device}\n" for device in found["devices"]))
    say(f"{found['count']} devices{' would be' if dry_run else ''}; {found['problem'] or 'nothing is wrong'}")
