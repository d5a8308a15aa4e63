"""`provision`: how devices get in, and what would happen to a certificate."""

from pathlib import Path
from typing import Annotated

import typer

from fleetgate.cli.files import certificate_pem
from fleetgate.cli.output import print_json, print_list, print_table, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, call, run, target

_PENDING = ("device", "fingerprint", "created", "not_after")
_NOTES = ("at", "how", "by", "device", "outcome", "code", "detail", "address")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="How devices get in.", no_args_is_help=True)
    commands.command("check")(_check)
    commands.command("pending")(_pending)
    commands.command("log")(_log)
    app.add_typer(commands, name="provision")


def _pending(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """List certificates that wait for `certificate activate FINGERPRINT`."""
    print_list(_PENDING, run(call(target(context, state, config), "GET", "/pending-certificates")), as_json=as_json)


def _log(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=1000)] = 100,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List what came of requests for identities, the latest first."""
    found = run(call(target(context, state, config), "GET", "/provisionings", params={"limit": limit}))
    print_list(_NOTES, found, as_json=as_json)


def _check(
    context: typer.Context,
    certificate: Annotated[Path, typer.Argument(help="PEM file, the certificate first.")],
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say, rule by rule, what would happen to this certificate at a connect, and why. Exit code 0 either way."""
    body = {"certificate": certificate_pem(certificate)}
    found = run(call(target(context, state, config), "POST", "/provisioning/check", json=body))
    if as_json:
        print_json(found)
        return
    print_table(("rule", "outcome", "detail"), found["steps"])
    say("it would be let in" if found["decision"] == "allow" else f"it would be refused: {found['reason']}")
