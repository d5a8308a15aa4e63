"""`top`: the busiest, the most refused and the newest devices, live."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fleetgate.cli.output import print_json, print_table
from fleetgate.cli.target import Api, ConfigOption, JsonOption, StateOption, Target, api, run, target

_SENT = ("device", "messages_per_second", "bytes_per_second", "rejected_per_second", "messages", "rejected")
_NEW = ("device", "created", "state", "connected")
_PARTS = (("busiest", _SENT), ("refused", _SENT), ("newest", _NEW))


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(top)


def top(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="The first so many of each.", min=1, max=100)] = 10,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=1, max=3600)] = 2,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Look once; also where stdout is no terminal.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show who sends most now, of whom most is refused, and who is new; until Ctrl-C."""
    on = target(context, state, config)
    if as_json or once or not sys.stdout.isatty():
        found = run(_once(on, limit, every))
        if as_json:
            print_json(found)
        else:
            for part, columns in _PARTS:
                sys.stdout.write(f"{part}\n")
                print_table(columns, found[part])
    else:
        run(_live(on, limit, every))


async def _once(on: Target, limit: int, every: float) -> dict[str, Any]:
    async with api(on) as owner:
        if owner.served:  # rates are those between two looks
            await _looked(owner, limit)
            await asyncio.sleep(every)
        return await _looked(owner, limit)


async def _live(on: Target, limit: int, every: float) -> None:
    async with api(on) as owner:
        with Live(screen=True, auto_refresh=False) as shown:
            while True:
                shown.update(_page(await _looked(owner, limit)), refresh=True)
                await asyncio.sleep(every)


async def _looked(owner: Api, limit: int) -> dict[str, Any]:
    found: dict[str, Any] = await owner.call("GET", "/top", params={"limit": limit})
    return found


def _page(found: dict[str, Any]) -> Group:
    said = f"{found['devices']} devices, {found['connected']} connected, {found['messages_per_second']} messages/s"
    return Group(Text(said), *(_table(part, columns, found[part]) for part, columns in _PARTS))


def _table(title: str, columns: Sequence[str], rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in {"device", "created", "state"} else "right")
    for row in rows:
        table.add_row(*(Text(str(row[column])) for column in columns))
    return table
