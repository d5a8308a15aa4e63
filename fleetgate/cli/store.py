"""`store`: what is in which tier, sealing, and whether the files are sound."""

from typing import Annotated, Any

import typer

from fleetgate.cli.commands import add_list
from fleetgate.cli.operations import finished, progress_bars
from fleetgate.cli.output import print_json, print_list, print_one, progress_console, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, Target, api, call, run, target

_FILES = ("path", "stream", "rows", "messages", "first", "last", "bytes", "fields")
_DAMAGE = ("path", "first_row", "last_row", "detail")
_DAMAGED = 1


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Journal and history of telemetry.", no_args_is_help=True)
    commands.command("show")(_show)
    add_list(commands, "/store/files", _FILES, "List the files of the history.", "files")
    commands.command("seal")(_seal)
    commands.command("scrub")(_scrub)
    commands.command("migrate")(_migrate)
    app.add_typer(commands, name="store")


def _show(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """Show how much is in which tier."""
    print_one(run(call(target(context, state, config), "GET", "/store")), as_json=as_json)


def _seal(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """Seal what is in the journal now, without waiting for its time."""
    with progress_console.status("sealing"):
        found = run(call(target(context, state, config), "POST", "/store/seal", timeout=None))
    if as_json:
        print_json(found)
    else:
        say(f"{found['sealed']} messages sealed, {found['merged']} files merged into larger ones")


def _migrate(
    context: typer.Context,
    to: Annotated[
        str, typer.Option("--to", help="postgresql://user@host/database; the one of store.url where it is left out.")
    ] = "",
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Copy the history into PostgreSQL, file by file, each checked. May be stopped and begun again. Exit code 1: some
    files are damaged; what reads of them was copied.
    """
    found = run(_migrated(target(context, state, config), to))
    if as_json:
        print_json(found)
    else:
        if found["damaged"]:
            print_list(_DAMAGE, found["damaged"], as_json=False)
        say(f"{found['rows']} readings of {found['files']} files copied, {found['before']} files were there before")
    if found["damaged"]:
        raise typer.Exit(_DAMAGED)


async def _migrated(on: Target, url: str) -> dict[str, Any]:
    with progress_bars() as shown:
        async with api(on) as owner:
            operation = await owner.call("POST", "/store/migrate", json={"url": url}, timeout=None)
            return await finished(owner, operation, shown, shown.add_task("files", total=None))


def _scrub(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """Read every file of the history, and name the rows that are damaged. Exit code 1: there are some."""
    with progress_console.status("reading"):
        found = run(call(target(context, state, config), "POST", "/store/scrub", timeout=None))
    print_list(_DAMAGE, found, as_json=as_json)
    if found:
        raise typer.Exit(_DAMAGED)
    say("every file is sound")
