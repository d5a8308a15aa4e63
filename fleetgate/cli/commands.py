"""Commands that every feature has: list them all, show one, delete one."""

from collections.abc import Sequence
from typing import Annotated

import typer

from fleetgate.cli.output import print_done, print_list, print_one
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target

Name = Annotated[str, typer.Argument(help="Its name.")]


def add_list(
    commands: typer.Typer, path: str, columns: Sequence[str], summary: str = "List them all.", name: str = "list"
) -> None:
    """Add `list`, or so: what the API has at `path`."""

    def list_all(
        context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, as_json: JsonOption = False
    ) -> None:
        print_list(columns, run(call(target(context, state, config), "GET", path)), as_json=as_json)

    commands.command(name, help=summary)(list_all)


def add_show(commands: typer.Typer, path: str, summary: str = "Show one.") -> None:
    """Add `show NAME`: what the API has at `path`/NAME."""

    def show(
        context: typer.Context,
        name: Name,
        state: StateOption = None,
        config: ConfigOption = None,
        *,
        as_json: JsonOption = False,
    ) -> None:
        print_one(run(call(target(context, state, config), "GET", f"{path}{at(name)}")), as_json=as_json)

    commands.command("show", help=summary)(show)


def add_delete(commands: typer.Typer, path: str, what: str, summary: str) -> None:
    """Add `delete NAME`."""

    def delete(
        context: typer.Context,
        name: Name,
        state: StateOption = None,
        config: ConfigOption = None,
        *,
        as_json: JsonOption = False,
    ) -> None:
        found = run(call(target(context, state, config), "DELETE", f"{path}{at(name)}"))
        print_done(found, f"deleted {what} {name}", as_json=as_json)

    commands.command("delete", help=summary)(delete)


def add_action(commands: typer.Typer, path: str, action: str, summary: str) -> None:
    """Add `ACTION NAME`: what the API does at `path`/NAME/ACTION; its name ends in e."""

    def act(
        context: typer.Context,
        name: Name,
        state: StateOption = None,
        config: ConfigOption = None,
        *,
        as_json: JsonOption = False,
    ) -> None:
        found = run(call(target(context, state, config), "POST", f"{path}{at(name, action)}"))
        print_done(found, f"{name}: {action}d", as_json=as_json)

    commands.command(action, help=summary)(act)
