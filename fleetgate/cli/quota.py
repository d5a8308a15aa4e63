"""`quota`: how much devices may send, and how much they did."""

from typing import Annotated, Any

import typer

from fleet.quota.model import Over
from fleetgate.cli.commands import add_list
from fleetgate.cli.details import given_only
from fleetgate.cli.output import print_done, print_json, print_table, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target
from fleetgate.errors import ArgumentError

_COLUMNS = ("device", "type", "messages_per_minute", "bytes_per_minute", "messages_per_day", "bytes_per_day", "over")
_DAYS = ("day", "messages", "bytes")

Device = Annotated[str | None, typer.Option(help="This device.", show_default=False)]
Type = Annotated[str | None, typer.Option("--type", help="The devices of this type.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All devices that have none of their own.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="How much devices may send, and how much they did.", no_args_is_help=True)
    add_list(commands, "/quotas", _COLUMNS, "List them all; without a device: that of all who have none of their own.")
    commands.command("set")(_set)
    commands.command("delete")(_delete)
    commands.command("usage")(_usage)
    app.add_typer(commands, name="quota")


def _set(
    context: typer.Context,
    device: Device = None,
    type_name: Type = None,
    messages_per_minute: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    bytes_per_minute: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    messages_per_day: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    bytes_per_day: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    over: Annotated[Over, typer.Option(help="What becomes of more.")] = Over.REJECT,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    all_devices: All = False,
    as_json: JsonOption = False,
) -> None:
    """Set the quota of a device, of each of a type, or of all: it counts from now on, on open connections too."""
    body: dict[str, Any] = given_only(
        messages_per_minute=messages_per_minute,
        bytes_per_minute=bytes_per_minute,
        messages_per_day=messages_per_day,
        bytes_per_day=bytes_per_day,
    )
    path = _path(device, type_name, all_devices=all_devices)
    found = run(call(target(context, state, config), "PUT", path, json={**body, "over": over}))
    if as_json:
        print_json(found)
    else:
        say(f"quota of {_whose(device, type_name)}: more is {_WHAT[found['over']]}")


def _delete(
    context: typer.Context,
    device: Device = None,
    type_name: Type = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    all_devices: All = False,
    as_json: JsonOption = False,
) -> None:
    """Take the quota of a device away, of a type, or that of all."""
    found = run(call(target(context, state, config), "DELETE", _path(device, type_name, all_devices=all_devices)))
    print_done(found, f"no quota of {_whose(device, type_name)}", as_json=as_json)


def _usage(
    context: typer.Context,
    device: Annotated[str, typer.Argument(help="Name of the device.")],
    days: Annotated[int, typer.Option(help="Of so many days.", min=1, max=400)] = 30,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show how many messages and bytes a device sent, by day (UTC), the latest first."""
    found = run(call(target(context, state, config), "GET", at("devices", device, "usage"), params={"days": days}))
    if as_json:
        print_json(found)
    else:
        print_table(_DAYS, found["days"])


_WHAT = {Over.SLOW: "read slowly", Over.REJECT: "rejected", Over.SUSPEND: "rejected, and the device suspended"}


def _path(device: str | None, type_name: str | None, *, all_devices: bool) -> str:
    if sum((device is not None, type_name is not None, all_devices)) != 1:
        raise ArgumentError("give exactly one of --device, --type, --all")
    if type_name is not None:
        return at("types", type_name, "quota")
    return "/quota" if device is None else at("devices", device, "quota")


def _whose(device: str | None, type_name: str | None) -> str:
    return device or (f"devices of type {type_name}" if type_name is not None else "all devices")
