"""`authority`: certificate authorities of others, whose certificates count here."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.identity import Source
from fleet.provisioning.model import Mode
from fleetgate.cli.commands import add_delete, add_list, add_show
from fleetgate.cli.details import given_only
from fleetgate.cli.files import certificate_pem
from fleetgate.cli.output import print_json, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target

_COLUMNS = ("name", "subject", "mode", "template", "identity", "not_after")

Name = Annotated[str, typer.Argument(help="Its name here.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Certificate authorities of others.", no_args_is_help=True)
    add_list(commands, "/authorities", _COLUMNS)
    add_show(commands, "/authorities")
    add_delete(
        commands,
        "/authorities",
        "authority",
        "Let nobody connect by its certificates any more.",
    )
    commands.command("set")(_set)
    app.add_typer(commands, name="authority")


def _set(
    context: typer.Context,
    name: Name,
    certificate: Annotated[Path, typer.Argument(help="Its certificate, PEM.")],
    mode: Annotated[
        Mode, typer.Option(help="Devices of it that are not known: refused, or registered at their first connect.")
    ] = Mode.NONE,
    template: Annotated[str | None, typer.Option(help="What they are registered as.", show_default=False)] = None,
    identity: Annotated[
        Source | None, typer.Option(help="Where its certificates name the device, if not as usual.", show_default=False)
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Let its certificates count, or change how."""
    more = given_only(template=template, identity=identity)
    body = {"certificate": certificate_pem(certificate), "mode": mode, **more}
    found = run(call(target(context, state, config), "PUT", at("authorities", name), json=body))
    if as_json:
        print_json(found)
    else:
        say(f"authority {name}: {found['subject']}, devices that are not known: {found['mode']}")
