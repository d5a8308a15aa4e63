"""`init` and `serve`."""

import resource
import sys
from typing import Annotated, Any

import typer

from fleet.state import StateFolder
from fleetgate.addresses import parse_bind
from fleetgate.app import Addresses
from fleetgate.app import run as run_server
from fleetgate.cli.output import say
from fleetgate.cli.target import ConfigOption, StateOption, Target, run, target
from fleetgate.core import open_core
from fleetgate.logs import logging_to
from ingester.source_mqtt import SourceConfig

MqttBind = Annotated[str | None, typer.Option("--mqtt-bind", help="host:port for MQTT over TLS.", show_default=False)]
HttpBind = Annotated[str | None, typer.Option("--http-bind", help="host:port for HTTP.", show_default=False)]


WssBind = Annotated[
    str | None, typer.Option("--wss-bind", help="host:port for MQTT over WebSocket with TLS.", show_default=False)
]
PlainBind = Annotated[
    str | None, typer.Option("--plain-bind", help="Loopback host:port for MQTT without TLS.", show_default=False)
]


HttpsBind = Annotated[
    str | None,
    typer.Option("--https-bind", help="host:port of the devices' API, with client certificate.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(init)
    app.command()(serve)


def init(context: typer.Context, state: StateOption = None, config: ConfigOption = None) -> None:
    """Make the state folder (certificates, databases, token) and exit."""
    on = target(context, state, config)

    async def make() -> None:
        async with open_core(on.settings, on.state):
            pass

    run(make())
    say(f"state folder {on.state.path} is ready")


def serve(
    context: typer.Context,
    state: StateOption = None,
    config: ConfigOption = None,
    mqtt_bind: MqttBind = None,
    http_bind: HttpBind = None,
    wss_bind: WssBind = None,
    plain_bind: PlainBind = None,
    https_bind: HttpsBind = None,
) -> None:
    """Serve devices, Prometheus and operators, in the foreground, until SIGINT or SIGTERM."""
    binds = {"bind": mqtt_bind, "wss_bind": wss_bind, "plain_bind": plain_bind}
    serve_target(with_binds(target(context, state, config), binds, http_bind, https_bind))


def serve_target(on: Target, *, mqtt: bool = True, sources: tuple[SourceConfig, ...] = ()) -> None:
    """Serve, logging to the state folder; prints the ready line when everything listens."""
    state: StateFolder = on.state
    state.make()
    _allow_connections()
    log = on.settings.log
    with logging_to(state.log, log.level, log.max_bytes, log.keep_files) as log_file:
        run(run_server(on.settings, state, print_ready, log_file, mqtt=mqtt, sources=sources))


def _allow_connections() -> None:
    """A connection is an open file: allow as many as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def with_binds(on: Target, mqtt: dict[str, str | None], http_bind: str | None, https_bind: str | None = None) -> Target:
    """Let the options of the command line win over the settings; `mqtt` by name of the setting."""
    changed: dict[str, Any] = {}
    for section, given in (("mqtt", mqtt), ("http", {"bind": http_bind, "https_bind": https_bind})):
        binds = {name: bind for name, bind in given.items() if bind is not None}
        for bind in binds.values():
            parse_bind(bind)
        changed[section] = getattr(on.settings, section).model_copy(update=binds)
    return Target(on.state, on.settings.model_copy(update=changed))


def print_ready(addresses: Addresses) -> None:
    """Print the line that says where everything listens."""
    listening = " ".join(f"{scheme}={address}" for scheme, address in addresses.by_scheme().items())
    sys.stdout.write(f"ready {listening}\n")
    sys.stdout.flush()
