"""`claim`: certificates that many devices share until each has an identity of its own."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.authority import signing_request
from fleetgate.cli.commands import add_delete, add_list, add_show
from fleetgate.cli.details import given_only
from fleetgate.cli.files import credentials
from fleetgate.cli.output import print_json, print_list, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target

_COLUMNS = ("name", "state", "template", "uses", "max_uses", "per_hour", "expires")
_USES = ("at", "outcome", "device", "code", "detail", "address")

Name = Annotated[str, typer.Argument(help="Its name.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Certificates that devices share until each has its own.", no_args_is_help=True)
    commands.command("add")(_add)
    add_list(commands, "/claims", _COLUMNS)
    add_show(commands, "/claims")
    add_delete(commands, "/claims", "claim", "Delete one; devices that came by it stay.")
    commands.command("uses")(_uses)
    commands.command("revoke")(_revoke)
    app.add_typer(commands, name="claim")


def _add(
    context: typer.Context,
    name: Name,
    template: Annotated[str, typer.Option(help="What devices that come by it are registered as.")],
    out: Annotated[Path, typer.Option(help="Folder for its key, its certificate and ca.pem; made when missing.")],
    max_uses: Annotated[int | None, typer.Option(help="Devices that may be made.", min=1, show_default=False)] = None,
    per_hour: Annotated[int | None, typer.Option(help="Requests in an hour.", min=1, show_default=False)] = None,
    days: Annotated[float | None, typer.Option(help="Days that it counts.", show_default=False)] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make one. What was in --out for that name is replaced."""
    key, request = signing_request(name)
    body: dict[str, Any] = {"name": name, "template": template, "csr": request.decode()}
    body |= given_only(max_uses=max_uses, per_hour=per_hour, days=days)
    with credentials(out, name, key) as write:
        added = run(call(target(context, state, config), "POST", "/claims", json=body))
        write(added)
    if as_json:
        print_json(added["claim"])
    else:
        say(f"claim {name}: devices publish to provision/{template}, answers come to provision/{template}/accepted")


def _uses(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List what it was used for, and what was rejected and why, the latest first."""
    params = {"how": "claim", "by": name, "limit": 1000}
    found = run(call(target(context, state, config), "GET", "/provisionings", params=params))
    print_list(_USES, found, as_json=as_json)


def _revoke(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Refuse it for good; its connections end. Devices that came by it stay."""
    found = run(call(target(context, state, config), "POST", at("claims", name, "revoke")))
    if as_json:
        print_json(found)
    else:
        say(f"claim {name} is {found['state']}")
