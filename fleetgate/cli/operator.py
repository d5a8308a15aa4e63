"""`operator`, `token` and `whoami`: who runs the fleet, and what they prove that by."""

import getpass
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.files import write_private
from fleet.operators.model import Role
from fleetgate.cli.commands import add_delete, add_list, add_show
from fleetgate.cli.details import given_only
from fleetgate.cli.output import print_done, print_json, print_list, print_one, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, api, at, call, run, target
from fleetgate.errors import ArgumentError

_COLUMNS = ("name", "role", "groups", "sites", "disabled", "password", "external", "tokens", "description")
_TOKENS = ("id", "role", "groups", "sites", "created", "expires", "last_used", "description")
_ACTIONS = ("action", "role", "reach", "audited", "method", "path")

Name = Annotated[str, typer.Argument(help="Name of the operator.")]
Groups = Annotated[list[str] | None, typer.Option("--group", help="Only devices of this group; repeat for more.")]
Sites = Annotated[list[str] | None, typer.Option("--site", help="Only devices at this site; repeat for more.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Who runs the fleet.", no_args_is_help=True)
    add_list(commands, "/operators", _COLUMNS)
    add_show(commands, "/operators")
    commands.command("set")(_set)
    commands.command("password")(_password)
    add_delete(commands, "/operators", "operator", "Take one away, with its tokens.")
    add_list(commands, "/actions", _ACTIONS, "List what can be done, and the least role for it.", "actions")
    app.add_typer(commands, name="operator")
    tokens = typer.Typer(help="What programs prove by that they are an operator.", no_args_is_help=True)
    tokens.command("list")(_list_tokens)
    tokens.command("add")(_add_token)
    tokens.command("revoke")(_revoke_token)
    app.add_typer(tokens, name="token")
    app.command()(whoami)


def whoami(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """Show which operator you are: who has $FLEETGATE_TOKEN, else who has admin.token."""
    print_one(run(call(target(context, state, config), "GET", "/me")), as_json=as_json)


def _set(
    context: typer.Context,
    name: Name,
    role: Annotated[Role, typer.Option(help="What it may do.")],
    groups: Groups = None,
    sites: Sites = None,
    description: Annotated[str | None, typer.Option(help="Who it is.", show_default=False)] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    disabled: Annotated[bool, typer.Option("--disabled", help="It may do nothing for now.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make an operator, or set one anew: without --group and --site it has the whole fleet."""
    body = given_only(
        role=role.value, groups=groups or [], sites=sites or [], description=description, disabled=disabled
    )
    found = run(call(target(context, state, config), "PUT", at("operators", name), json=body))
    if as_json:
        print_json(found)
    else:
        say(f"operator {name} is {found['role']}")


def _password(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    own: Annotated[bool, typer.Option("--own", help="It is yours: the first line is the one of now.")] = False,
    none: Annotated[bool, typer.Option("--none", help="It is to have none any more.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give an operator a password, which is read from standard input."""
    body = {"current": _secret("Password of now: ") if own else "", "password": ""}
    if not none:
        body["password"] = _secret("New password: ")
        if not body["password"]:
            raise ArgumentError("no password on standard input")
    found = run(call(target(context, state, config), "PUT", at("operators", name, "password"), json=body))
    print_done(found, f"operator {name} has {'no' if none else 'a new'} password", as_json=as_json)


def _list_tokens(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List the tokens of an operator."""
    found = run(call(target(context, state, config), "GET", at("operators", name, "tokens")))
    print_list(_TOKENS, found, as_json=as_json)


def _add_token(
    context: typer.Context,
    name: Name,
    days: Annotated[float, typer.Option(help="Days that it counts.")] = 90,
    role: Annotated[Role | None, typer.Option(help="At most that role.", show_default=False)] = None,
    groups: Groups = None,
    sites: Sites = None,
    description: Annotated[str | None, typer.Option(help="What it is for.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File for it, not standard output.", show_default=False)
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    for_ever: Annotated[bool, typer.Option("--for-ever", help="It does not end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a token for an operator. It is told this once: put it into $FLEETGATE_TOKEN, or an Authorization header."""
    known = given_only(role=role, description=description)
    body = {**known, "days": None if for_ever else days, "groups": groups or [], "sites": sites or []}
    found = run(call(target(context, state, config), "POST", at("operators", name, "tokens"), json=body))
    if out is not None:
        write_private(out, found.pop("token").encode() + b"\n")
    if as_json:
        print_json(found)
    elif out is None:
        sys.stdout.write(f"{found['token']}\n")
    else:
        say(f"{out} has token {found['id']} of {name}")


def _revoke_token(
    context: typer.Context,
    token: Annotated[str, typer.Argument(help="Its id.")],
    operator: Annotated[str | None, typer.Option(help="Whose it is; by default your own.", show_default=False)] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Let a token count no more."""

    async def revoke() -> dict[str, Any]:
        async with api(target(context, state, config)) as owner:
            name = operator or (await owner.call("GET", "/me"))["name"]
            revoked: dict[str, Any] = await owner.call("DELETE", at("operators", name, "tokens", token))
            return revoked

    found = run(revoke())
    print_done(found, f"token {token} of {found['operator']} is revoked", as_json=as_json)


def _secret(prompt: str) -> str:
    return getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
