"""`backup`: the state folder as it is, copied while everything goes on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fleetgate.cli.operations import finished, progress_bars
from fleetgate.cli.output import print_json, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, Target, api, run, target


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(backup)


def backup(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder to make; not there yet.")],
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Copy the state folder while everything goes on. What was acknowledged before is in the copy.

    It has keys and the token: keep it as you keep those. To restore, stop the server, and serve from a copy of it.
    """
    found = run(_made(target(context, state, config), folder.absolute()))
    if as_json:
        print_json(found)
    else:
        say(f"{found['folder']}: {found['bytes'] / 1e6:.1f} MB, with all that was acknowledged before {found['at']}")


async def _made(on: Target, folder: Path) -> dict[str, Any]:
    with progress_bars() as shown:
        async with api(on) as owner:
            operation = await owner.call("POST", "/backups", json={"folder": str(folder)}, timeout=None)
            return await finished(owner, operation, shown, shown.add_task("files", total=None))
