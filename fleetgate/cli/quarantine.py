"""`quarantine`: messages that could not be read or stored."""

from typing import Annotated

import typer

from fleetgate.cli.output import Format, Rows, print_json, print_one, progress_console, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, Target, api, call, run, target
from fleetgate.errors import ArgumentError

_COLUMNS = ("id", "received", "device", "stream", "topic", "reason", "detail", "bytes")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Messages kept because they could not be read or stored.", no_args_is_help=True)
    commands.command("list")(_list)
    commands.command("show")(_show)
    commands.command("replay")(_replay)
    app.add_typer(commands, name="quarantine")


def _list(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, json: JsonOption = False
) -> None:
    """List them, oldest first."""
    run(_print_list(target(context, state, config), Format.JSON if json else Format.TABLE))


async def _print_list(on: Target, form: Format) -> None:
    async with api(on) as owner:
        with Rows(_COLUMNS, form) as rows:
            after = 0
            while page := await owner.call("GET", "/quarantine", params={"after": after}):
                after = page[-1]["id"]
                for item in page:
                    rows.add(item)


def _show(
    context: typer.Context,
    entry: Annotated[int, typer.Argument(metavar="ID")],
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Show one with its payload."""
    item = run(call(target(context, state, config), "GET", f"/quarantine/{entry}"))
    print_one(item, as_json=json)


def _replay(
    context: typer.Context,
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID...")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Try all of them.")] = False,
    json: JsonOption = False,
) -> None:
    """Read messages again, under today's settings, and store those that can be read now."""
    if bool(ids) == everything:
        raise ArgumentError("give ids, or --all")
    on = target(context, state, config)
    with progress_console.status("reading again"):
        found = run(call(on, "POST", "/quarantine/replay", json={"ids": ids or None}, timeout=None))
    if json:
        print_json(found)
    else:
        say(f"{found['stored']} stored, {found['kept']} still in quarantine")
