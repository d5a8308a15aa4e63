"""`simulate`: a fleet that does not exist, for a server that does."""

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated, Any

import typer
from rich.progress import Progress

from fleet.authority import signing_request
from fleet.files import write_private, write_public
from fleetgate.addresses import parse_bind, reachable_host
from fleetgate.app import serving
from fleetgate.cli.device import list_all
from fleetgate.cli.output import print_one, progress_console, say
from fleetgate.cli.serve import print_ready, with_binds
from fleetgate.cli.target import (
    Api,
    CommandError,
    ConfigOption,
    JsonOption,
    StateOption,
    Target,
    api,
    at,
    is_served,
    run,
)
from fleetgate.cli.target import target as target_of
from fleetgate.logs import logging_to
from fleetgate.simulator import Report, SimulatedDevice
from fleetgate.simulator import simulate as simulate_fleet

_ANY_PORT = "127.0.0.1:0"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(simulate)


def simulate(
    context: typer.Context,
    devices: Annotated[int, typer.Option(min=1, max=100_000, help="How many devices.")] = 10,
    rate: Annotated[float, typer.Option(min=0.001, max=1e6, help="Messages a second, of all devices together.")] = 10,
    duration: Annotated[float, typer.Option(min=0.1, max=1e8, help="Seconds.")] = 60,
    days: Annotated[
        float, typer.Option(min=0, max=3660, help="Readings of so many days until now, instead of the moment.")
    ] = 0,
    qos: Annotated[int, typer.Option(min=0, max=2, help="MQTT quality of service.")] = 1,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    serve: Annotated[
        bool, typer.Option("--serve", help="With no server running, serve on the addresses of the settings meanwhile.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Send plausible readings from simulated devices; report rate, latency of acknowledgement, and errors."""
    summary = run(
        _simulate(target_of(context, state, config), devices, rate, duration, days, qos, serve=serve)
    ).summary()
    print_one(summary, as_json=json)
    if summary["errors"]:
        raise typer.Exit(1)


async def _simulate(
    on: Target, count: int, rate: float, seconds: float, days: float, qos: int, *, serve: bool
) -> Report:
    async with AsyncExitStack() as stack:
        if not await is_served(on):
            say(f"no server runs on {on.state.path}: one is started for the time of the simulation")
            stack.enter_context(logging_to(on.state.log, "info", on.settings.log.max_bytes, on.settings.log.keep_files))
            settings = on.settings if serve else with_binds(on, {"bind": _ANY_PORT}, _ANY_PORT).settings
            _core, addresses = await stack.enter_async_context(serving(settings, on.state))
            if serve:
                print_ready(addresses)
        owner = await stack.enter_async_context(api(on))
        served = on.state.server().get("mqtts")
        if served is None:
            raise CommandError("the server that runs does not listen for MQTT")
        host, port = parse_bind(served)
        bars = stack.enter_context(Progress(console=progress_console, transient=True))
        fleet = await _provision(on, owner, count, bars)
        connecting = bars.add_task("connecting", total=count)
        sending = bars.add_task("sending", total=max(1, int(rate * seconds)))
        return await simulate_fleet(
            fleet,
            (reachable_host(host), port),
            rate=rate,
            seconds=seconds,
            past_seconds=days * 86_400,
            qos=qos,
            connected=lambda steps: bars.advance(connecting, steps),
            sent=lambda steps: bars.advance(sending, steps),
        )


async def _provision(on: Target, owner: Api, count: int, bars: Progress) -> list[SimulatedDevice]:
    """Make certificates for devices that have none yet, and register them."""
    folder = on.state.simulator
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fleet = [SimulatedDevice(f"sim-{number:05}", folder) for number in range(1, count + 1)]
    registered = {member["name"] for member in await list_all(owner, "devices")}
    bar = bars.add_task("certificates", total=count)
    for device in fleet:
        if not (device.name in registered and device.certificate.exists() and device.key.exists()):
            if device.name in registered:
                await owner.call("DELETE", at("devices", device.name))
            await _register(owner, device)
        bars.advance(bar)
    return fleet


async def _register(owner: Api, device: SimulatedDevice) -> None:
    key, request = await asyncio.to_thread(signing_request, device.name)
    body: dict[str, Any] = {"name": device.name, "csr": request.decode()}
    added = await owner.call("POST", "/devices", json=body)
    write_private(device.key, key)
    write_public(device.certificate, added["certificate"].encode())
    write_public(device.folder / "ca.pem", added["ca"].encode())
