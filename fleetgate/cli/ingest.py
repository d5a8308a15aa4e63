"""`ingest`: read telemetry from somebody else's broker."""

import hashlib
import socket
from pathlib import Path
from typing import Annotated

import typer

from fleetgate.cli.files import read_text
from fleetgate.cli.serve import HttpBind, serve_target, with_binds
from fleetgate.cli.target import ConfigOption, StateOption, target
from ingester.source_mqtt import SourceConfig
from ingester.topics import NATIVE_FILTERS, NATIVE_TEMPLATES


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(ingest)


def ingest(
    context: typer.Context,
    url: Annotated[str, typer.Option("--from", help="mqtt://[user@]host[:port] or mqtts://...")],
    topic: Annotated[list[str] | None, typer.Option(help="Filter to subscribe to; repeat for more.")] = None,
    templates: Annotated[
        list[str] | None, typer.Option("--map", help="How topics name device and stream: plant/{device}/{stream}")
    ] = None,
    client_id: Annotated[str | None, typer.Option(help="MQTT client id; the broker keeps its session.")] = None,
    mqtt_version: Annotated[str, typer.Option(help="5 or 3.1.1")] = "5",
    ca: Annotated[Path | None, typer.Option(help="CA of the broker (PEM).")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Our client certificate (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with the password of the user in the URL.")] = None,
    retained: Annotated[
        str,
        typer.Option(help="Retained messages of the broker: once (again only when they change), ignore, or store."),
    ] = "once",
    state: StateOption = None,
    config: ConfigOption = None,
    http_bind: HttpBind = None,
) -> None:
    """Serve a state folder of its own, fed from another broker: the same store, metrics, API, without MQTT."""
    on = with_binds(target(context, state, config), {}, http_bind)
    place = f"{socket.gethostname()}:{on.state.path.resolve()}".encode()
    source = SourceConfig(
        url,
        tuple(topic) if topic else NATIVE_FILTERS,
        tuple(templates) if templates else NATIVE_TEMPLATES,
        client_id or f"fleetgate-{hashlib.sha256(place).hexdigest()[:12]}",
        mqtt_version,
        ca,
        certificate,
        key,
        read_text(password_file).strip() if password_file is not None else None,
        retained,
    )
    serve_target(on, mqtt=False, sources=(source,))
