"""`stream`: which topics are telemetry of what, and how it is read; `codec test`: what codecs make of a payload."""

import base64
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.documents import parsed
from fleetgate.cli.commands import add_delete, add_list, add_show
from fleetgate.cli.details import given_only
from fleetgate.cli.files import File, read_bytes, read_document
from fleetgate.cli.output import print_json, print_table, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target
from fleetgate.errors import ArgumentError
from ingester.streams.definition import new_definition

_COLUMNS = ("name", "version", "definition", "units")
_TRIAL = ("counts", "stream", "definition", "codec", "readings", "why not")
_FIELDS = ("stream", "field", "types", "unit", "description", "first", "last")
_UNREADABLE = 1
_SHOWN = 3
"""Readings of one try that the table shows."""

Name = Annotated[str, typer.Argument(help="Its name.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Which topics are telemetry of what, and how it is read.", no_args_is_help=True)
    add_list(commands, "/streams", _COLUMNS)
    add_show(commands, "/streams")
    add_delete(commands, "/streams", "stream", "Delete a definition; what was stored by it stays.")
    commands.command("set")(_set)
    commands.command("fields")(_fields)
    app.add_typer(commands, name="stream")
    codecs = typer.Typer(help="Payload formats.", no_args_is_help=True)
    codecs.command("test")(_test)
    app.add_typer(codecs, name="codec")


def _set(
    context: typer.Context,
    name: Name,
    document: File,
    descriptor: Annotated[Path | None, typer.Option(help="Codec protobuf: file with the descriptor set.")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Define one, or change it: JSON. It counts at once, for devices that are connected too."""
    body: dict[str, Any] = {}
    if descriptor is not None:
        body["descriptor"] = base64.b64encode(read_bytes(descriptor)).decode()

    def check(text: str) -> None:
        found = parsed(text, "stream")
        if not isinstance(found, dict):
            raise ArgumentError("stream: an object is wanted")
        body.update(found)
        new_definition(name, body)

    read_document(document, check)
    found = run(call(target(context, state, config), "PUT", at("streams", name), json=body))
    if as_json:
        print_json(found)
    else:
        say(f"stream {name} has version {found['version']}")


def _fields(
    context: typer.Context,
    stream: Annotated[str | None, typer.Argument(help="One stream only.")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what streams really send since the server started: fields, types, units, and what is new."""
    found = run(call(target(context, state, config), "GET", "/stream-fields", params=given_only(stream=stream)))
    if as_json:
        print_json(found)
        return
    rows = [{"stream": one["stream"], **field} for one in found for field in one["fields"]]
    print_table(_FIELDS, [{**row, "field": row["name"]} for row in rows])
    for one in found:
        for drift in one["drifts"]:
            was = f"was {drift['was']}, is" if drift["was"] else "is new:"
            say(f"{drift['time']} {one['stream']}: {drift['field']} {was} {drift['now']}, from {drift['device']}")


def _test(
    context: typer.Context,
    topic: Annotated[str, typer.Option(help="Where it would be published.")],
    file: Annotated[Path, typer.Option(help="The payload; - for standard input.")],
    device: Annotated[str, typer.Option(help="Who would send it, where the topic does not say.")] = "",
    content_type: Annotated[str, typer.Option(help="As MQTT 5 would have it.")] = "",
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what each stream and codec would make of a payload. Exit code 1: none can read it."""
    payload = read_bytes(file)
    body = {
        "topic": topic,
        "device": device,
        "content_type": content_type,
        "payload_base64": base64.b64encode(payload).decode(),
    }
    found = run(call(target(context, state, config), "POST", "/codec-trials", json=body))
    if as_json:
        print_json(found)
    else:
        print_table(_TRIAL, [_row(one) for one in found])
    if not any(one["readings"] for one in found):
        raise typer.Exit(_UNREADABLE)


def _row(trial: dict[str, Any]) -> dict[str, Any]:
    shown = [
        {"time": one["time"], **one["fields"], **({"marks": one["marks"]} if one["marks"] else {})}
        for one in trial["readings"][:_SHOWN]
    ]
    return {
        "counts": "*" if trial["chosen"] else "",
        "stream": trial["stream"],
        "definition": trial["definition"],
        "codec": trial["codec"],
        "readings": shown or "",
        "why not": f"{trial['reason']}: {trial['detail']}" if trial["reason"] else "",
    }
