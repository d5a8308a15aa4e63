"""`publish` and `connections`: what operators do with MQTT."""

import base64
from typing import Annotated

import typer

from fleetgate.cli.output import Format, Rows, print_done, print_json, print_one, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, Target, api, at, call, run, target

_COLUMNS = ("client_id", "name", "address", "listener", "version", "connected", "messages_in", "messages_out")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(publish)
    commands = typer.Typer(help="Connections that are open now.", no_args_is_help=True)
    commands.command("list")(_list)
    commands.command("show")(_show)
    commands.command("close")(_close)
    app.add_typer(commands, name="connections")


def publish(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="Topic name.")],
    message: Annotated[str, typer.Argument(help="Payload.")],
    qos: Annotated[int, typer.Option(min=0, max=2, help="QoS.")] = 0,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    retain: Annotated[bool, typer.Option("--retain", help="Keep it for later subscribers.")] = False,
    json: JsonOption = False,
) -> None:
    """Publish a message to whoever subscribes to its topic; it returns when that is on disk where it has to survive."""
    payload = base64.b64encode(message.encode("utf-8", "surrogateescape")).decode()
    body = {"topic": topic, "payload_base64": payload, "qos": qos, "retain": retain}
    found = run(call(target(context, state, config), "POST", "/messages", json=body))
    if json:
        print_json(found)
    else:
        say(f"published, {found['subscribers']} subscribers")


def _list(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, json: JsonOption = False
) -> None:
    """List them by client id."""
    run(_print_list(target(context, state, config), Format.JSON if json else Format.TABLE))


async def _print_list(on: Target, form: Format) -> None:
    async with api(on) as owner:
        with Rows(_COLUMNS, form) as rows:
            after: str | None = ""
            while after is not None:
                page = await owner.call("GET", "/connections", params={"after": after})
                after = page["next"]
                for item in page["items"]:
                    rows.add(item)


def _show(
    context: typer.Context,
    client_id: Annotated[str, typer.Argument(metavar="CLIENT_ID")],
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Show one."""
    found = run(call(target(context, state, config), "GET", at("connections", client_id, slashes=True)))
    print_one(found, as_json=json)


def _close(
    context: typer.Context,
    client_id: Annotated[str, typer.Argument(metavar="CLIENT_ID")],
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """End one; the client may connect again."""
    found = run(call(target(context, state, config), "DELETE", at("connections", client_id, slashes=True)))
    print_done(found, f"closed {client_id}", as_json=json)
