"""`quarantine`: messages that could not be read or stored."""

import base64
from pathlib import Path
from typing import Annotated

import typer

from fleetgate.cli.commands import add_list
from fleetgate.cli.details import given_only
from fleetgate.cli.files import read_bytes
from fleetgate.cli.output import Format, Rows, print_json, print_one, progress_console, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, Target, api, at, call, run, target
from fleetgate.errors import ArgumentError

_COLUMNS = ("id", "received", "device", "stream", "topic", "reason", "detail", "codec", "bytes")
_SUMMARY = ("reason", "messages", "bytes", "oldest", "expired")
_SHOWN_BYTES = 4096

Reason = Annotated[str | None, typer.Option(help="Only those of this reason.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Messages kept because they could not be read or stored.", no_args_is_help=True)
    commands.command("list")(_list)
    commands.command("show")(_show)
    commands.command("replay")(_replay)
    add_list(commands, "/quarantine/summary", _SUMMARY, "How many there are of each reason.", "summary")
    app.add_typer(commands, name="quarantine")


def _list(
    context: typer.Context,
    reason: Reason = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """List them, oldest first."""
    run(_print_list(target(context, state, config), Format.JSON if json else Format.TABLE, reason))


async def _print_list(on: Target, form: Format, reason: str | None) -> None:
    async with api(on) as owner:
        with Rows(_COLUMNS, form) as rows:
            after, chosen = 0, given_only(reason=reason)
            while page := await owner.call("GET", "/quarantine", params={"after": after, **chosen}):
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
    """Show one with its payload, as text and in hexadecimal."""
    item = run(call(target(context, state, config), "GET", at("quarantine", entry)))
    if not json:
        item["payload_hex"] = _dump(item["payload_hex"])
        del item["payload_base64"]
    print_one(item, as_json=json)


def _dump(text: str) -> str:
    """Sixteen bytes a line."""
    numbers = text.split()
    lines = [" ".join(numbers[at : at + 16]) for at in range(0, min(len(numbers), _SHOWN_BYTES), 16)]
    more = len(numbers) - _SHOWN_BYTES
    return "\n".join([*lines, f"... {more} bytes more"] if more > 0 else lines)


def _replay(
    context: typer.Context,
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID...")] = None,
    reason: Reason = None,
    payload: Annotated[
        Path | None, typer.Option(help="Read this file instead of what came, for one ID; - for standard input.")
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Try all of them.")] = False,
    json: JsonOption = False,
) -> None:
    """Read messages again, as streams are defined today, and store those that can be read now."""
    if (bool(ids), reason is not None, everything).count(True) != 1:
        raise ArgumentError("give ids, --reason, or --all")
    body = {"ids": ids or None, **given_only(reason=reason)}
    if payload is not None:
        data = read_bytes(payload)
        body["payload_base64"] = base64.b64encode(data).decode()
    on = target(context, state, config)
    with progress_console.status("reading again"):
        found = run(call(on, "POST", "/quarantine/replay", json=body, timeout=None))
    if json:
        print_json(found)
    else:
        say(f"{found['stored']} stored, {found['kept']} still in quarantine")
