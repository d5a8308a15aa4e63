"""`provision`: how devices get in, and what would happen to a certificate."""

from pathlib import Path
from typing import Annotated

import typer

from fleetgate.cli.output import print_json, print_table, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, call, run, target


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="How devices get in.", no_args_is_help=True)
    commands.command("check")(_check)
    app.add_typer(commands, name="provision")


def _check(
    context: typer.Context,
    certificate: Annotated[Path, typer.Argument(help="PEM file, the certificate first.")],
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say, rule by rule, what would happen to this certificate at a connect, and why. Exit code 0 either way."""
    body = {"certificate": certificate.read_text()}
    found = run(call(target(context, state, config), "POST", "/provisioning/check", json=body))
    if as_json:
        print_json(found)
        return
    print_table(("rule", "outcome", "detail"), found["steps"])
    say("it would be let in" if found["decision"] == "allow" else f"it would be refused: {found['reason']}")
