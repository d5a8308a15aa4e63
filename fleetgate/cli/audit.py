"""`audit`: who did what to whom, and whether the log of it is as it was written."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.audit.checkpoint import CheckpointError, read_checkpoint
from fleet.audit.export import verify_export
from fleet.audit.model import Outcome
from fleetgate.cli.details import given_only
from fleetgate.cli.files import read_chain, read_json
from fleetgate.cli.output import print_json, print_list, say
from fleetgate.cli.target import CommandError, ConfigOption, JsonOption, StateOption, Target, api, call, run, target
from fleetgate.errors import ArgumentError

_COLUMNS = ("seq", "at", "actor", "via", "address", "action", "targets", "outcome", "code", "before", "after", "facts")
_PAGE = 1000

Checkpoint = Annotated[
    list[Path] | None, typer.Option("--checkpoint", help="File with a checkpoint kept elsewhere; repeat for more.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Who did what to whom.", no_args_is_help=True)
    commands.command("list")(_list)
    commands.command("verify")(_verify)
    commands.command("export")(_export)
    commands.command("checkpoint")(_checkpoint)
    app.add_typer(commands, name="audit")


def _list(
    context: typer.Context,
    actor: Annotated[str | None, typer.Option(help="Who did it.", show_default=False)] = None,
    action: Annotated[str | None, typer.Option(help="Such as device.retire, or device.*", show_default=False)] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="What came of it.", show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help="To this device.", show_default=False)] = None,
    on: Annotated[str | None, typer.Option("--target", help="To whom: KIND:NAME.", show_default=False)] = None,
    start: Annotated[str | None, typer.Option("--from", help="ISO 8601 or -1h.", show_default=False)] = None,
    end: Annotated[str | None, typer.Option("--to", help="ISO 8601 or -1h.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1)] = 100,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List entries, the oldest first."""
    if device is not None:
        on = f"device:{device}"
    asked = given_only(actor=actor, action=action, outcome=outcome, target=on, to=end)
    asked |= {} if start is None else {"from": start}
    found = run(_found(target(context, state, config), asked, limit))
    if not as_json:
        found = [{**entry, "targets": ", ".join(":".join(one) for one in entry["targets"])} for entry in found]
    print_list(_COLUMNS, found, as_json=as_json)


def _verify(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Option("--file", help="An export, not the log itself; needs --ca.", show_default=False)
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="ca.pem of whose log it is.", show_default=False)] = None,
    checkpoints: Checkpoint = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say whether the log is as it was written; exit code 1, and the first bad entry, when it is not."""
    known = [_read_checkpoint(path) for path in checkpoints or []]
    if file is None:
        body = {"checkpoints": known}
        found = run(call(target(context, state, config), "POST", "/audit/verify", json=body, timeout=None))
    else:
        found = _verify_file(file, ca, known)
    if as_json:
        print_json(found)
    elif found["ok"]:
        say(f"{found['entries']} entries, all as they were written")
    if not found["ok"]:
        fault = found["fault"]
        raise CommandError(f"audit log: entry {fault['seq']}: {fault['wrong']}: {fault['detail']}")


def _export(context: typer.Context, state: StateOption = None, config: ConfigOption = None) -> None:
    """Print all entries as JSON lines, and the signed end: what `verify --file` reads."""
    run(_print_lines(target(context, state, config)))


def _checkpoint(context: typer.Context, state: StateOption = None, config: ConfigOption = None) -> None:
    """Print the signed end of the log: keep it elsewhere, and `verify --checkpoint` knows what was there."""
    print_json(run(call(target(context, state, config), "GET", "/audit/checkpoint")))


async def _found(on: Target, asked: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with api(on) as owner:
        before: dict[str, int] = {}
        while len(found) < limit:
            params = {**asked, **before, "limit": min(limit - len(found), _PAGE)}
            page = await owner.call("GET", "/audit", params=params)
            found += page["items"]
            if page["next"] is None:
                break
            before = {"before": page["next"]}
    return found[::-1]


async def _print_lines(on: Target) -> None:
    async with api(on) as owner:
        async for line in owner.lines("/audit/export", {}):
            sys.stdout.write(f"{line}\n")


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
        read_checkpoint(found)
    except CheckpointError as error:
        raise ArgumentError(f"--checkpoint {path}: {error}") from None
    return dict(found)


def _verify_file(file: Path, ca: Path | None, known: list[dict[str, Any]]) -> dict[str, Any]:
    if ca is None:
        raise ArgumentError("--file needs --ca: who may have signed it")
    roots = read_chain(ca)
    with file.open("rb") as lines:
        entries, fault = verify_export(lines, roots, [read_checkpoint(one) for one in known])
    shown = None if fault is None else {"seq": fault.seq, "wrong": fault.wrong, "detail": fault.detail}
    return {"ok": fault is None, "entries": entries, "fault": shown}
