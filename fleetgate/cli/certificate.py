"""`certificate`: certificates of devices and applications, one by one."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from fleet.authority import signing_request
from fleetgate.cli.files import certificate_pem, credentials, request_pem
from fleetgate.cli.output import print_json, print_list, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, at, call, run, target
from fleetgate.errors import ArgumentError

_COLUMNS = ("fingerprint", "status", "not_before", "not_after", "serial")

Name = Annotated[str, typer.Argument(help="Name of the device.")]
Application = Annotated[bool, typer.Option("--application", help="The name is that of an application.")]
Fingerprint = Annotated[str, typer.Argument(help="SHA-256 of the certificate, hex.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Certificates of devices and applications, one by one.", no_args_is_help=True)
    commands.command("list")(_list)
    commands.command("add")(_add)
    for action, summary in (
        ("activate", "Let it in; a name has two active ones at most."),
        ("deactivate", "Refuse it until it is activated again; its connections end."),
        ("revoke", "Refuse it for good; its connections end."),
    ):
        _register_action(commands, action, summary)
    app.add_typer(commands, name="certificate")


def _list(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    application: Application = False,
    as_json: JsonOption = False,
) -> None:
    """List the certificates of a device, the oldest first."""
    found = run(call(target(context, state, config), "GET", at(_plural(application), name)))["certificates"]
    print_list(_COLUMNS, found, as_json=as_json)


def _add(
    context: typer.Context,
    name: Name,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for a new key, its certificate and ca.pem; made when missing."),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="Register this certificate (PEM), made elsewhere.")] = None,
    csr: Annotated[Path | None, typer.Option(help="Issue a certificate for this signing request (PEM).")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    pending: Annotated[bool, typer.Option("--pending", help="Refuse it until it is activated.")] = False,
    application: Application = False,
    as_json: JsonOption = False,
) -> None:
    """Register one more certificate of a device: for a new key in --out, or from --csr or --certificate.

    What was in --out for that name is replaced.
    """
    if sum(option is not None for option in (out, certificate, csr)) != 1:
        raise ArgumentError("give exactly one of --out DIR, --csr FILE and --certificate FILE")
    key = None
    if certificate is not None:
        body = {"certificate": certificate_pem(certificate)}
    elif csr is not None:
        body = {"csr": request_pem(csr)}
    else:
        key, request = signing_request(name)
        body = {"csr": request.decode()}
    on = target(context, state, config)
    path = at(_plural(application), name, "certificates")
    with nullcontext() if out is None else credentials(out, name, key) as write:
        added = run(call(on, "POST", path, json={**body, "active": not pending}))
        if write is not None:
            write(added)
    if as_json:
        print_json(added["entry"])
    elif csr is not None:
        sys.stdout.write(added["certificate"])
    else:
        say(f"{name}: {added['entry']['status']} certificate {added['entry']['fingerprint']}")


def _register_action(commands: typer.Typer, action: str, summary: str) -> None:
    def act(
        context: typer.Context,
        fingerprint: Fingerprint,
        state: StateOption = None,
        config: ConfigOption = None,
        *,
        as_json: JsonOption = False,
    ) -> None:
        wanted = fingerprint.replace(":", "").lower()
        found = run(call(target(context, state, config), "POST", at("certificates", wanted, action)))
        if as_json:
            print_json(found)
        else:
            say(f"certificate of {found['name']}: {found['status']}")

    commands.command(action, help=summary)(act)


def _plural(application: bool) -> str:
    return "applications" if application else "devices"
