"""`policy` and `explain`: what devices may do, and why."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from fleet.errors import FleetError
from fleet.policy.text import read_text
from fleetgate.cli.details import given_only
from fleetgate.cli.files import File, read_document
from fleetgate.cli.output import print_done, print_json, print_list, print_one, say
from fleetgate.cli.target import CommandError, ConfigOption, JsonOption, StateOption, Target, at, call, run, target
from fleetgate.errors import ArgumentError, SettingsError

_COLUMNS = ("name", "default_version", "versions", "attached", "description")
_PAST = ("last", "action", "resource", "decision", "reason", "policy", "version", "statement", "times", "detail")
_CHANGES = ("device", "action", "resource", "was", "would_be", "times", "last")
_UNDECIDED = 2

Name = Annotated[str, typer.Argument(help="Its name.")]
Device = Annotated[str | None, typer.Option(help="This device.", show_default=False)]
Type = Annotated[str | None, typer.Option("--type", help="The devices of this type.", show_default=False)]
Group = Annotated[str | None, typer.Option(help="The devices of this group.", show_default=False)]
Certificate = Annotated[str | None, typer.Option(help="Connections by this certificate.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All devices.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="What devices may do.", no_args_is_help=True)
    for name, command in (
        ("list", _list),
        ("show", _show),
        ("set", _set),
        ("default", _default),
        ("delete", _delete),
        ("attach", _attaching("attachments", "Attach one: it counts from now on for these devices.")),
        ("detach", _attaching("attachments/remove", "Detach one: it counts no more for these devices.")),
        ("simulate", _simulate),
    ):
        commands.command(name)(command)
    app.add_typer(commands, name="policy")
    app.command("explain")(_explain)


def _list(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """List them all."""
    found = run(call(target(context, state, config), "GET", "/policies"))
    if not as_json:
        found = [{**one, "attached": ", ".join(_attachment(at) for at in one["attached"])} for one in found]
    print_list(_COLUMNS, found, as_json=as_json)


def _show(
    context: typer.Context,
    name: Name,
    version: Annotated[int | None, typer.Option(help="This version, not the one that counts.", min=1)] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show one, with the document that counts, or a version of it."""
    path = at("policies", name) if version is None else at("policies", name, "versions", version)
    print_one(run(call(target(context, state, config), "GET", path)), as_json=as_json)


def _set(
    context: typer.Context,
    name: Name,
    document: File,
    description: Annotated[str | None, typer.Option(help="What it is for.", show_default=False)] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    no_default: Annotated[bool, typer.Option("--no-default", help="Keep the version that counts now.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make one, or a new version of it, which counts from now on."""
    body = {
        "document": read_document(document, read_text),
        **given_only(description=description),
        "default": not no_default,
    }
    found = run(call(target(context, state, config), "PUT", at("policies", name), json=body))
    if as_json:
        print_json(found)
    else:
        say(f"policy {name}: version {max(found['versions'])} is there, version {found['default_version']} counts")


def _default(
    context: typer.Context,
    name: Name,
    version: Annotated[int, typer.Argument(help="The version that is to count.", min=1)],
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Let another version count."""
    body = {"version": version}
    found = run(call(target(context, state, config), "POST", at("policies", name, "default"), json=body))
    if as_json:
        print_json(found)
    else:
        say(f"policy {name}: version {found['default_version']} counts")


def _delete(
    context: typer.Context,
    name: Name,
    version: Annotated[int | None, typer.Option(help="Only this version.", min=1)] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Delete one that is attached to nothing, or a version that does not count."""
    path = at("policies", name) if version is None else at("policies", name, "versions", version)
    found = run(call(target(context, state, config), "DELETE", path))
    text = f"deleted policy {name}" if version is None else f"deleted version {version} of policy {name}"
    print_done(found, text, as_json=as_json)


def _attaching(path: str, text: str) -> Callable[..., None]:
    """Build a command that attaches, or detaches."""

    def command(
        context: typer.Context,
        name: Name,
        device: Device = None,
        device_type: Type = None,
        group: Group = None,
        certificate: Certificate = None,
        state: StateOption = None,
        config: ConfigOption = None,
        *,
        all_devices: All = False,
        as_json: JsonOption = False,
    ) -> None:
        body = _body(_given(device, device_type, group, certificate, all_devices=all_devices))
        found = run(call(target(context, state, config), "POST", f"{at('policies', name)}/{path}", json=body))
        if as_json:
            print_json(found)
        else:
            places = ", ".join(_attachment(at) for at in found["attached"]) or "nothing"
            say(f"policy {found['name']} is attached to {places}")

    command.__doc__ = text
    return command


def _simulate(
    context: typer.Context,
    name: Name,
    document: File,
    hours: Annotated[float, typer.Option(help="Decisions of so many hours.", min=0.01)] = 24,
    device: Device = None,
    device_type: Type = None,
    group: Group = None,
    certificate: Certificate = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    all_devices: All = False,
    as_json: JsonOption = False,
) -> None:
    """Decide again what was asked lately, with this document for the policy: list what would change.

    It counts where the policy is attached now, and where the options say.
    """
    body: dict[str, Any] = {"name": name, "document": read_document(document, read_text), "hours": hours}
    if found := _given(device, device_type, group, certificate, all_devices=all_devices):
        body["attach"] = _body(found)
    answer = run(call(target(context, state, config), "POST", "/policy-simulations", json=body))
    if as_json:
        print_json(answer["changes"])
        return
    rows = [{**one, "was": one["was"]["decision"], "would_be": _reason(one["would_be"])} for one in answer["changes"]]
    print_list(_CHANGES, rows, as_json=False)
    say(f"{len(rows)} of {answer['decisions']} decisions would be different")


def _explain(
    context: typer.Context,
    device: Annotated[str | None, typer.Option(help="The device that asks.", show_default=False)] = None,
    operator: Annotated[
        str | None, typer.Option(help="An operator: may it do --action, to --device?", show_default=False)
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="With --operator: such as device.retire.", show_default=False)
    ] = None,
    publish: Annotated[str | None, typer.Option(help="May it publish to this topic?", show_default=False)] = None,
    subscribe: Annotated[str | None, typer.Option(help="May it subscribe to this filter?", show_default=False)] = None,
    receive: Annotated[str | None, typer.Option(help="May it receive from this topic?", show_default=False)] = None,
    retain: Annotated[str | None, typer.Option(help="May it retain at this topic?", show_default=False)] = None,
    source_address: Annotated[str | None, typer.Option(help="From this address.", show_default=False)] = None,
    certificate: Annotated[str | None, typer.Option(help="By this certificate.", show_default=False)] = None,
    tls: Annotated[str | None, typer.Option(help="With this TLS, such as TLSv1.3.", show_default=False)] = None,
    listener: Annotated[str | None, typer.Option(help="Over mqtts or wss.", show_default=False)] = None,
    time: Annotated[str | None, typer.Option(help="At this time (ISO 8601).", show_default=False)] = None,
    since: Annotated[str, typer.Option(help="With --past: from then on.")] = "-24h",
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    connect: Annotated[bool, typer.Option("--connect", help="May it connect?")] = False,
    past: Annotated[bool, typer.Option("--past", help="What was refused lately, and why.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a device may do, and which statement of which policy decides. Exit code 2: it can't be decided.

    What is not given is taken from the device's connection, if it has one. With --operator: what an operator may do.
    """
    asked = given_only(publish=publish, subscribe=subscribe, receive=receive, retain=retain)
    if connect:
        asked["connect"] = ""
    facts = given_only(source_address=source_address, certificate=certificate, tls=tls, listener=listener, time=time)
    try:
        on = target(context, state, config)
        if operator is not None:
            _explain_operator(on, operator, action, device, as_json=as_json)
            return
        if past:
            found = run(call(on, "GET", "/decisions", params={"device": _asking(device), "since": since}))
        else:
            found = run(call(on, "GET", "/explain", params={"device": _asking(device), **_one(asked), **facts}))
    except (CommandError, FleetError, ArgumentError, SettingsError) as error:
        sys.stderr.write(f"fleetgate: {error}\n")
        raise typer.Exit(_UNDECIDED) from None
    if past:
        print_list(_PAST, found, as_json=as_json)
    elif as_json:
        print_json(found)
    else:
        sys.stdout.write(f"{_sentence(_asking(device), asked, found)}\n")


def _asking(device: str | None) -> str:
    if device is None:
        raise ArgumentError("give --device, or --operator and --action")
    return device


def _explain_operator(on: Target, operator: str, action: str | None, device: str | None, *, as_json: bool) -> None:
    if action is None:
        raise ArgumentError("--operator needs --action, such as device.retire")
    params = given_only(action=action, device=device)
    found = run(call(on, "GET", at("operators", operator, "explanation"), params=params))
    if as_json:
        print_json(found)
    else:
        what = f"{operator}, {action} {device or ''}".rstrip()
        sys.stdout.write(f"{what}: {found['decision']}, {found['detail']}\n")


def _one(asked: dict[str, Any]) -> dict[str, Any]:
    if len(asked) != 1:
        raise ArgumentError("give exactly one of --publish, --subscribe, --receive, --retain, --connect, --past")
    return asked


def _sentence(device: str, asked: dict[str, Any], found: dict[str, Any]) -> str:
    (action, resource), *_ = asked.items()
    what = f"{action} {resource}".strip()
    return f"{device}, {what}: {found['decision']}, {_reason(found)}"


def _reason(found: dict[str, Any]) -> str:
    if found["policy"] is not None:
        return f"{found['reason']} by {found['statement']!r} of policy {found['policy']}, version {found['version']}"
    reason = str(found["reason"])
    return f"{reason}: no statement of its policies allows it" if reason == "not_allowed" else reason


def _given(
    device: str | None, device_type: str | None, group: str | None, certificate: str | None, *, all_devices: bool
) -> dict[str, str]:
    found = given_only(device=device, type=device_type, group=group, certificate=certificate)
    return {**found, "all": ""} if all_devices else found


def _body(given: dict[str, str]) -> dict[str, str]:
    if len(given) != 1:
        raise ArgumentError("give exactly one of --device, --type, --group, --certificate, --all")
    ((kind, name),) = given.items()
    return {"kind": kind, "target": name.replace(":", "").lower() if kind == "certificate" else name}


def _attachment(at: dict[str, str]) -> str:
    return f"{at['kind']} {at['target']}".strip()
