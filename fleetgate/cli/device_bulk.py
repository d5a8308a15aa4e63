"""`device bulk`: one action on all devices that a query finds."""

import sys
from typing import Annotated, Any

import typer

from fleetgate.cli.details import Attributes, DisplayName, NoTags, Notes, Site, Tags, Type, Without, change_of
from fleetgate.cli.operations import finished, progress_bars
from fleetgate.cli.output import print_json, print_table, say
from fleetgate.cli.target import CommandError, ConfigOption, JsonOption, StateOption, Target, api, run, target
from fleetgate.errors import ArgumentError
from fleetgate.http.device_actions import ActionKind


def act_on_devices(
    context: typer.Context,
    action: Annotated[ActionKind, typer.Argument(help="What to do to each.")],
    query: Annotated[str, typer.Option("--query", help="Fleet query that finds them; '' finds all.")],
    display_name: DisplayName = None,
    type_name: Type = None,
    site: Site = None,
    notes: Notes = None,
    attributes: Attributes = None,
    tags: Tags = None,
    without: Without = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    no_tags: NoTags = False,
    purge: Annotated[bool, typer.Option("--purge", help="With retire: delete their telemetry too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which these are.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Do something to all devices that a query finds; each is in the audit log. Exit code 1 when one of them failed.

    What is to be known about them belongs to `set`, as with `device set`.
    """
    texts = {"display_name": display_name, "type": type_name, "site": site, "notes": notes}
    change = change_of(attributes, without, tags, no_tags=no_tags, **texts)
    if (action is ActionKind.SET) is not bool(change):
        raise ArgumentError(f"{action}: what is to be known about devices (--site, --tag, ...) belongs to set")
    body = {"action": action.value, "query": query, "change": change or None, "purge": purge, "dry_run": dry_run}
    found = run(_done(target(context, state, config), body))
    if as_json:
        print_json(found)
    elif dry_run:
        sys.stdout.write("".join(f"{name}\n" for name in found["names"]))
        say(f"{found['devices']} devices")
    else:
        if found["failed"]:
            print_table(("device", "problem"), found["failed"])
        say(f"{action}: {found['done']} of {found['devices']} devices")
    if found["failed"]:
        raise CommandError(f"{found['devices'] - found['done']} devices: not done")


async def _done(on: Target, body: dict[str, Any]) -> dict[str, Any]:
    with progress_bars() as shown:
        async with api(on) as owner:
            operation = await owner.call("POST", "/device-actions", json=body, timeout=None)
            return await finished(owner, operation, shown, shown.add_task("devices", total=None))
