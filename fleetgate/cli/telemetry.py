"""`query` and `tail`: what devices sent."""

import sys
from contextlib import suppress
from typing import Annotated, Any

import orjson
import typer

from fleetgate.cli.details import given_only
from fleetgate.cli.output import Format, Rows, say
from fleetgate.cli.target import CommandError, ConfigOption, JsonOption, StateOption, Target, api, at, call, run, target
from fleetgate.errors import ArgumentError

_READING = ("device", "stream", "time", "received", "fields")
_FIELD = ("time", "received", "stream", "field", "value")
_HEAD = ("time", "client_id", "direction", "packet")
_FLEET = ("time", "count", "min", "max", "avg", "devices")
_BUCKET = ("time", "count", "min", "max", "avg", "last")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(query)
    app.command()(tail)


def query(
    context: typer.Context,
    device: Annotated[str | None, typer.Argument(help="Name of the device.")] = None,
    devices: Annotated[
        str | None, typer.Option(help="Instead: a fleet query, or '' for all; with --field and --bucket.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="With --devices: apart by device, type, site, state, attributes.KEY.")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="One stream only.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="ISO 8601 or -1h; without it the newest 100.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="ISO 8601 or -1h.")] = None,
    field: Annotated[str | None, typer.Option(help="One field, dotted where nested.")] = None,
    bucket: Annotated[str | None, typer.Option(help="With --field: summarise by 30s, 1m, 1h ...")] = None,
    stats: Annotated[str | None, typer.Option(help="With --bucket: also sum, stddev, p50, p99, with commas.")] = None,
    fill: Annotated[str | None, typer.Option(help="With --bucket: none, null, previous or linear.")] = None,
    points: Annotated[int | None, typer.Option(help="With --field: at most so many, for a plot.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Print a device's readings, oldest first, by the device's time; or one field of many devices in buckets."""
    on = target(context, state, config)
    if (device is None) == (devices is None):
        raise ArgumentError("either the name of a device or --devices is needed")
    if devices is not None and (field is None or bucket is None or stats or fill or points):
        raise ArgumentError("--devices: needs --field and --bucket, and takes no --stats, --fill or --points")
    if by is not None and devices is None:
        raise ArgumentError("--by: needs --devices")
    given = given_only(stream=stream, to=end, field=field, bucket=bucket, stats=stats, fill=fill, points=points)
    if start is not None:
        given["from"] = start
    columns: tuple[str, ...] = _BUCKET if bucket is not None else _FIELD if field is not None else _READING
    columns += tuple(stats.split(",")) if stats else ()
    form = Format.JSON if json else form
    if devices is not None:
        columns = _FLEET if by is None else (_FLEET[0], "by", *_FLEET[1:])
        run(_buckets(on, {**given, **given_only(query=devices, by=by)}, columns, form))
    elif device is not None:
        run(_query(on, device, given, columns, form))


async def _buckets(on: Target, params: dict[str, str], columns: tuple[str, ...], form: Format) -> None:
    found = await call(on, "GET", "/telemetry/buckets", params=params, timeout=None)
    with Rows(columns, form) as rows:
        for row in found:
            rows.add(row)


async def _query(on: Target, device: str, params: dict[str, str], columns: tuple[str, ...], form: Format) -> None:
    async with api(on) as owner:
        lines = owner.lines(at("devices", device, "telemetry"), params)
        first = await anext(lines, None)  # an error is known before anything is printed
        with Rows(columns, form) as rows:
            if first is not None:
                rows.add(orjson.loads(first))
            async for line in lines:
                rows.add(orjson.loads(line))


def tail(
    context: typer.Context,
    device: Annotated[str | None, typer.Option(help="One device only.")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    packets: Annotated[bool, typer.Option("--packets", help="Show MQTT packets, in and out.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")] = False,
) -> None:
    """Show messages live as they are committed, and what is refused and why. Ends with Ctrl-C."""
    on = target(context, state, config)
    with suppress(KeyboardInterrupt):
        run(_tail(on, device, "/packets" if packets else "/tail", json=json))


async def _tail(on: Target, device: str | None, path: str, *, json: bool) -> None:
    async with api(on) as owner:
        if not owner.served and path == "/packets":
            raise CommandError(f"no server runs on {on.state.path}: there are no packets to show")
        if not owner.served:
            say(f"no server runs on {on.state.path}: this is what was stored last")
            for reading in await owner.call("GET", "/telemetry/recent", params={"limit": 100}):
                if device in {None, reading["device"]}:
                    _print(reading, json=json)
            return
        async for line in owner.lines(path, {} if device is None else {"device": device}):
            event = orjson.loads(line)
            if "watching" in event:
                say(f"watching {event['watching']}, Ctrl-C ends")
            else:
                _print(event, json=json)


def _print(event: dict[str, Any], *, json: bool) -> None:
    sys.stdout.write((orjson.dumps(event).decode() if json else _line(event)) + "\n")
    sys.stdout.flush()


def _line(event: dict[str, Any]) -> str:
    if "missed" in event:
        text = f"... {event['missed']} more not shown"
    elif "refused" in event:
        who = event["device"] or "-"
        text = f"{event['received']} {who} REFUSED {event['refused']} {event['reason']}: {event['detail']}"
        text += f" [{event['topic']}]" if event["topic"] else ""
    elif "packet" in event:
        rest = " ".join(f"{name}={orjson.dumps(value).decode()}" for name, value in event.items() if name not in _HEAD)
        arrow = "<-" if event["direction"] == "in" else "->"
        text = f"{event['time']} {event['client_id']} {arrow} {event['packet']} {rest}"
    else:
        fields = " ".join(f"{name}={orjson.dumps(value).decode()}" for name, value in event["fields"].items())
        text = f"{event['time']} {event['device']} {event['stream']} {fields}"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
