"""`sql`: one SELECT over messages, readings, streams and devices."""

import sys
from enum import StrEnum
from typing import Annotated, Any

import orjson
import typer

from fleetgate.analytics.question import Bounds
from fleetgate.cli.output import print_table, progress_console, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, Target, api, run, target

_DEFAULT = Bounds()


class SqlFormat(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(sql)


def sql(
    context: typer.Context,
    select: Annotated[str, typer.Argument(help="One SELECT; - for standard input.")],
    form: Annotated[SqlFormat, typer.Option("--format", help="How to print.")] = SqlFormat.TABLE,
    seconds: Annotated[float, typer.Option(help="How long it may take.")] = _DEFAULT.seconds,
    memory: Annotated[int, typer.Option(help="Bytes of memory that it may take.")] = _DEFAULT.memory_bytes,
    rows: Annotated[int, typer.Option(help="Rows that it may have.")] = _DEFAULT.rows,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Ask a question of messages, readings, devices and each stream by its name.

    Views: messages(device, stream, time, received, payload), readings(device, stream, time, field, value, text),
    devices, and one for each stream with a column for each of its fields.
    """
    chosen = SqlFormat.JSON if json else form
    body = {
        "sql": sys.stdin.read() if select == "-" else select,
        "format": "json" if chosen is SqlFormat.TABLE else chosen.value,
        "seconds": seconds,
        "memory_bytes": memory,
        "rows": rows,
    }
    with progress_console.status("asking"):
        data = run(_ask(target(context, state, config), body))
    if chosen is not SqlFormat.TABLE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    found = orjson.loads(data)
    if found:
        print_table(list(found[0]), found)
    else:
        say("no rows")


async def _ask(on: Target, body: dict[str, Any]) -> bytes:
    async with api(on) as owner:
        return await owner.fetch("POST", "/sql", json=body, timeout=None)
