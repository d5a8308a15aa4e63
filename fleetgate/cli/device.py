"""`device` and `application`: who belongs to the fleet."""

import json
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.authority import signing_request
from fleet.files import write_private
from fleet.names import check_name
from fleetgate.addresses import parse_bind, reachable_host
from fleetgate.cli.commands import add_action
from fleetgate.cli.details import (
    Attributes,
    DisplayName,
    NoTags,
    Notes,
    Site,
    Tags,
    Type,
    Without,
    attributes_of,
    change_of,
    given_only,
)
from fleetgate.cli.device_bulk import act_on_devices
from fleetgate.cli.device_import import import_devices
from fleetgate.cli.device_labels import make_labels
from fleetgate.cli.device_presence import show_presence, show_timeline
from fleetgate.cli.files import certificate_pem, credentials, request_pem
from fleetgate.cli.output import print_done, print_json, print_table, progress_console, say
from fleetgate.cli.target import Api, ConfigOption, JsonOption, StateOption, Target, api, at, call, run, target
from fleetgate.errors import ArgumentError
from fleetgate.snippets import SNIPPETS, Facts

_COLUMNS = ("name", "state", "connected", "last_seen", "certificates", "created")
_DEVICE_COLUMNS = ("name", "state", "type", "site", "tags", "connected", "last_seen", "certificates")
_MESSAGE = '{"temperature": 21.5}'

Name = Annotated[str, typer.Argument(help="Its name.")]
QueryOption = Annotated[
    str, typer.Option("--query", help="Fleet query, as `type:pump AND NOT tag:lab`.", show_default=False)
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for key, certificate and ca.pem; made when missing.", show_default=False),
]
CertificateFile = Annotated[
    Path | None,
    typer.Option("--certificate", help="Register this certificate (PEM), made elsewhere.", show_default=False),
]
CsrFile = Annotated[
    Path | None, typer.Option("--csr", help="Issue a certificate for this signing request (PEM).", show_default=False)
]

PurgeOption = Annotated[bool, typer.Option("--purge", help="Delete its telemetry too.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for kind, plural in (("device", "devices"), ("application", "applications")):
        commands = typer.Typer(help=f"Add, look at and remove {plural}.", no_args_is_help=True)
        if kind == "device":
            commands.command("add")(_add_device)
            commands.command("list")(_list_devices)
            commands.command("count")(_count_devices)
            commands.command("set")(_set_device)
            commands.command("import")(import_devices)
            commands.command("bulk")(act_on_devices)
            commands.command("labels")(make_labels)
            commands.command("retire")(_retire_device)
            commands.command("delete")(_delete_device)
            commands.command("presence")(show_presence)
            commands.command("timeline")(show_timeline)
        else:
            commands.command("add")(_add_application)
            commands.command("list")(_list_applications)
            commands.command("retire")(_retire_application)
            commands.command("delete")(_delete_application)
        _register_common(commands, plural)
        app.add_typer(commands, name=kind)


def _register_common(commands: typer.Typer, plural: str) -> None:
    @commands.command()
    def show(
        context: typer.Context,
        name: Name,
        state: StateOption = None,
        config: ConfigOption = None,
        *,
        as_json: JsonOption = False,
    ) -> None:
        """Show one with its certificates."""
        _print_one(run(call(target(context, state, config), "GET", at(plural, name))), as_json=as_json)

    for action, summary in (
        ("disable", "Refuse its connections until it is enabled."),
        ("enable", "Let it in again."),
    ):
        add_action(commands, f"/{plural}", action, summary)

    @commands.command()
    def revoke(
        context: typer.Context,
        name: Name,
        state: StateOption = None,
        config: ConfigOption = None,
        *,
        forget: Annotated[bool, typer.Option("--forget", help="Its session, and what waits in it, goes too.")] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Revoke its certificates for good."""
        params = {"forget": forget}
        found = run(call(target(context, state, config), "POST", at(plural, name, "revoke"), params=params))
        print_done(found, f"{name}: revoked", as_json=as_json)


def _retire_device(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    purge: PurgeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Refuse its connections for good, revoke its certificates and delete its session. The rest stays."""
    _retire(target(context, state, config), "devices", name, {"purge": purge}, as_json=as_json)


def _retire_application(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Refuse its connections for good, revoke its certificates and delete its session."""
    _retire(target(context, state, config), "applications", name, {}, as_json=as_json)


def _retire(on: Target, plural: str, name: str, params: dict[str, Any], *, as_json: bool) -> None:
    found = run(call(on, "POST", at(plural, name, "retire"), params=params, timeout=None))
    print_done(found, f"{name}: retired", as_json=as_json)


def _delete_device(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    purge: PurgeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take it out of the fleet. Its certificate stays refused; its telemetry stays, unless --purge."""
    on = target(context, state, config)
    with progress_console.status(f"deleting {name}"):
        found = run(call(on, "DELETE", at("devices", name), params={"purge": purge}, timeout=None))
    if as_json:
        print_json(found)
    else:
        say(f"deleted {name}" + (f", {found['purged']} rows of telemetry with it" if purge else ""))


def _delete_application(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Take it out of the fleet. Its certificate stays refused; what it published for devices stays theirs."""
    found = run(call(target(context, state, config), "DELETE", at("applications", name)))
    print_done(found, f"deleted {name}", as_json=as_json)


def _add_device(
    context: typer.Context,
    name: Name,
    out: Out = None,
    certificate: CertificateFile = None,
    csr: CsrFile = None,
    display_name: DisplayName = None,
    type_name: Type = None,
    site: Site = None,
    notes: Notes = None,
    attributes: Attributes = None,
    tags: Tags = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    with_snippets: Annotated[
        bool, typer.Option("--snippets", help="Programs for its clients, too, beside them in --out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Register a device: with a new key and certificate in --out, or from --csr or --certificate."""
    on = target(context, state, config)
    if with_snippets and (out is None or certificate is not None or csr is not None):
        raise ArgumentError("--snippets: programs need the key, which a new one in --out has")
    known = given_only(display_name=display_name, type=type_name, site=site, notes=notes, tags=tags)
    known["attributes"] = attributes_of(attributes or [])
    _add(on, "devices", name, out, certificate, csr, known, as_json=as_json)
    if with_snippets and out is not None:
        written = write_snippets(on, name, out)
        say(f"programs for its clients: {', '.join(written)}")


def _list_devices(
    context: typer.Context,
    query: QueryOption = "",
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List devices, all or those that a query finds."""
    _print_list(target(context, state, config), "devices", _DEVICE_COLUMNS, query, as_json=as_json)


def _list_applications(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """List them all."""
    _print_list(target(context, state, config), "applications", _COLUMNS, "", as_json=as_json)


def _count_devices(
    context: typer.Context,
    query: QueryOption = "",
    by: Annotated[
        str | None, typer.Option(help="type, site, state, tag, connected or attributes.KEY.", show_default=False)
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Count devices that a query finds, all together or by a field."""
    params = given_only(query=query, by=by)
    found = run(call(target(context, state, config), "GET", "/device-counts", params=params))
    if as_json:
        print_json(found)
    elif by is None:
        sys.stdout.write(f"{found[0]['count']}\n")
    else:
        print_table((by, "count"), [{by: row["value"], "count": row["count"]} for row in found])


def _set_device(
    context: typer.Context,
    name: Name,
    display_name: DisplayName = None,
    type_name: Type = None,
    site: Site = None,
    notes: Notes = None,
    attributes: Attributes = None,
    tags: Tags = None,
    without: Without = None,
    if_version: Annotated[
        int | None, typer.Option(help="Only if this is still its version.", show_default=False)
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    no_tags: NoTags = False,
    as_json: JsonOption = False,
) -> None:
    """Change what is known about a device; tags, where given, are all it is to have."""
    texts = {"display_name": display_name, "type": type_name, "site": site, "notes": notes}
    change = change_of(attributes, without, tags, no_tags=no_tags, **texts)
    headers = {} if if_version is None else {"If-Match": f'"{if_version}"'}
    on = target(context, state, config)
    found = run(call(on, "PATCH", at("devices", name), json=change, headers=headers))
    if as_json:
        print_json(found)
    else:
        say(f"{name} is version {found['version']}")


def _add_application(
    context: typer.Context,
    name: Name,
    publish: Annotated[list[str] | None, typer.Option(help="Topic filter it may publish to; repeat for more.")] = None,
    subscribe: Annotated[list[str] | None, typer.Option(help="Topic filter it may subscribe to; repeat.")] = None,
    out: Out = None,
    certificate: CertificateFile = None,
    csr: CsrFile = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Register a back end with exactly the topic filters it is given."""
    on = target(context, state, config)
    filters = {"publish": publish or [], "subscribe": subscribe or []}
    _add(on, "applications", name, out, certificate, csr, filters, as_json=as_json)


def _add(
    on: Target,
    plural: str,
    name: str,
    out: Path | None,
    certificate: Path | None,
    csr: Path | None,
    more: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    check_name(name)
    given = [option for option in (certificate, csr) if option is not None]
    if len(given) > 1 or (not given and out is None):
        raise ArgumentError("give --out DIR for a new key and certificate, or one of --csr FILE and --certificate FILE")
    body: dict[str, Any] = {"name": name, **more}
    key = None
    if certificate is not None:
        body["certificate"] = certificate_pem(certificate)
    elif csr is not None:
        body["csr"] = request_pem(csr)
    else:
        key, request = signing_request(name)
        body["csr"] = request.decode()
    with nullcontext() if out is None else credentials(out, name, key) as write:
        added = run(call(on, "POST", f"/{plural}", json=body))
        if write is not None:
            write(added)
    if as_json:
        print_json(added["device"])
    elif out is not None and plural == "devices" and key is not None:
        say(f"registered {name}; to publish as this device:")
        sys.stdout.write("\n".join(publish_lines(on, name, out)) + "\n")
    elif out is None and csr is not None:
        sys.stdout.write(added["certificate"])
    else:
        say(f"registered {name}")


def write_snippets(on: Target, name: str, out: Path) -> list[str]:
    """Write the programs that publish as a device whose files are in `out`; their names. Some have its key in them."""
    host, port = _reached(on)
    files = {"ca": out / "ca.pem", "certificate": out / f"{name}.pem", "key": out / f"{name}-key.pem"}
    paths = {key: str(path.absolute()) for key, path in files.items()}
    pems = {f"{key}_pem": path.read_text() for key, path in files.items()}
    facts = Facts(name, host, port, **paths, **pems)
    for ending, write in SNIPPETS.values():
        write_private(out / f"{name}.{ending}", write(facts).encode())
    return [f"{name}.{ending}" for ending, _ in SNIPPETS.values()]


def _reached(on: Target) -> tuple[str, int]:
    host, port = parse_bind(on.state.server().get("mqtts") or on.settings.mqtt.bind)
    return reachable_host(host), port


def publish_lines(on: Target, name: str, out: Path) -> list[str]:
    """Make three shell commands that publish a reading: with mosquitto_pub, with paho and with aiomqtt."""
    host, port = _reached(on)
    ca, cert, key = str(out / "ca.pem"), str(out / f"{name}.pem"), str(out / f"{name}-key.pem")
    topic = f"devices/{name}/telemetry"
    mosquitto = ["mosquitto_pub", "-h", host, "-p", str(port), "--cafile", ca, "--cert", cert, "--key", key]
    mosquitto += ["-i", name, "-q", "1", "-t", topic, "-m", _MESSAGE]
    quoted = json.dumps  # double quotes: the shell wraps the whole in single ones
    files = f"ca_certs={quoted(ca)}, certfile={quoted(cert)}, keyfile={quoted(key)}"
    paho = (
        f"import paho.mqtt.publish as publish; publish.single({quoted(topic)}, {quoted(_MESSAGE)}, qos=1, "
        f"hostname={quoted(host)}, port={port}, client_id={quoted(name)}, tls=dict({files}))"
    )
    main = (
        f"async def main():\n async with aiomqtt.Client({quoted(host)}, {port}, identifier={quoted(name)}, "
        f"tls_params=aiomqtt.TLSParameters({files})) as client:\n"
        f"  await client.publish({quoted(topic)}, {quoted(_MESSAGE)}, qos=1)\n"
    )
    aiomqtt = f"import asyncio, aiomqtt; exec({quoted(main)}); asyncio.run(main())"
    return [shlex.join(mosquitto), *(shlex.join([sys.executable, "-c", code]) for code in (paho, aiomqtt))]


async def list_all(owner: Api, plural: str, query: str = "") -> list[dict[str, Any]]:
    """Fetch all pages. `query`: of devices."""
    found: list[dict[str, Any]] = []
    after: str | None = ""
    asked = {"query": query} if query else {}
    while after is not None:
        page = await owner.call("GET", f"/{plural}", params={"after": after, **asked})
        found += page["items"]
        after = page["next"]
    return found


def _print_list(on: Target, plural: str, columns: tuple[str, ...], query: str, *, as_json: bool) -> None:
    found = run(_list(on, plural, query))
    if as_json:
        print_json(found)
    else:
        print_table(columns, [{**member, "certificates": len(member["certificates"])} for member in found])


async def _list(on: Target, plural: str, query: str) -> list[dict[str, Any]]:
    async with api(on) as owner:
        return await list_all(owner, plural, query)


def _print_one(member: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(member)
        return
    rows = [{"": key, "value": value} for key, value in member.items() if key != "certificates"]
    print_table(("", "value"), rows)
    print_table(("fingerprint", "status", "not_before", "not_after"), member["certificates"])
