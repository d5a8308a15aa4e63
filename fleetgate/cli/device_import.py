"""`device import`: registers a list of devices, with a progress bar, and a report on the rows that are bad."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fleetgate.cli.output import print_json, print_table, progress_console, say
from fleetgate.cli.target import CommandError, ConfigOption, JsonOption, StateOption, Target, api, run, target
from fleetgate.errors import ArgumentError

_MEDIA_TYPES = {".csv": "text/csv", ".ndjson": "application/x-ndjson", ".jsonl": "application/x-ndjson"}
_POLL_SECONDS = 0.1


def import_devices(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The list: .csv, or .ndjson (a JSON object a line).")],
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would come of it.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Register the good rows anyway.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register a list of devices: all of them, or none when a row is bad. Exit code 1 when one is."""
    media_type = _MEDIA_TYPES.get(file.suffix.lower())
    if media_type is None:
        raise ArgumentError(f"{file}: its name ends with none of {', '.join(_MEDIA_TYPES)}")
    data = file.read_bytes()
    found = run(_import(target(context, state, config), data, media_type, {"dry_run": dry_run, "skip_bad": skip_bad}))
    if as_json:
        print_json(found)
    else:
        if found["bad"]:
            print_table(("line", "name", "problem"), found["bad"])
        would = "would be " if dry_run else ""
        say(f"{found['added']} of {found['rows']} {would}registered, {found['bad_count']} bad")
    if found["bad_count"]:
        raise typer.Exit(1)


async def _import(on: Target, data: bytes, media_type: str, params: dict[str, bool]) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with api(on) as owner:
        with Progress(*columns, console=progress_console, transient=True) as bars:
            bar = bars.add_task("devices", total=None)
            operation = await owner.call(
                "POST",
                "/device-imports",
                content=data,
                headers={"Content-Type": media_type},
                params=params,
                timeout=None,
            )
            while operation["state"] == "running":
                bars.update(bar, completed=operation["done"], total=operation["total"])
                await asyncio.sleep(_POLL_SECONDS)
                operation = await owner.call("GET", f"/operations/{operation['id']}")
    if operation["state"] == "failed":
        raise CommandError(operation["problem"])
    result: dict[str, Any] = operation["result"]
    return result
