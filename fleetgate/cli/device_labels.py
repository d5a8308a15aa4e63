"""`device labels`: sheets of labels with QR codes, for devices of the registry or of an enrolment list."""

import string
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.files import write_public
from fleetgate.cli.output import print_json, say
from fleetgate.cli.target import Api, ConfigOption, JsonOption, StateOption, api, at, run, target
from fleetgate.errors import ArgumentError
from fleetgate.labels import SHEETS, Label, SheetName, draw

_PAGE = 200
_KNOWN = ("name", "type", "site")


def make_labels(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The PDF; made anew.")],
    query: Annotated[str, typer.Option("--query", help="Fleet query; all devices without.", show_default=False)] = "",
    enrolment: Annotated[
        str, typer.Option("--enrolment", help="Instead: the devices of this enrolment list.", show_default=False)
    ] = "",
    code: Annotated[
        str, typer.Option("--code", help="What QR codes say; {name}, {type} and {site} are the device's.")
    ] = "{name}",
    sheet: Annotated[SheetName, typer.Option("--sheet", help="How labels lie on a page.")] = SheetName.A4_24,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make labels with QR codes, as PDF, for the devices of a bulk enrolment."""
    if query and enrolment:
        raise ArgumentError("--query and --enrolment exclude each other")
    _check(code)
    on = target(context, state, config)

    async def labels() -> list[Label]:
        async with api(on) as owner:
            found = _enrolled(owner, enrolment) if enrolment else _devices(owner, query)
            return [_label(device, code) async for device in found]

    made = run(labels())
    if not made:
        raise ArgumentError("no device is found: there are no labels to make")
    write_public(file, draw(made, SHEETS[sheet]))
    if as_json:
        print_json({"file": str(file), "labels": len(made)})
    else:
        say(f"{file}: {len(made)} labels")


def _check(code: str) -> None:
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(code) if name is not None}
    except ValueError as error:
        raise ArgumentError(f"--code: {error}") from None
    if unknown := sorted(names - set(_KNOWN)):
        raise ArgumentError(f"--code: {{{unknown[0]}}} is none of {', '.join(f'{{{name}}}' for name in _KNOWN)}")


def _label(device: dict[str, Any], code: str) -> Label:
    known = {name: device[name] for name in _KNOWN}
    return Label(code.format_map(known), tuple(filter(None, known.values())))


async def _devices(owner: Api, query: str) -> AsyncIterator[dict[str, Any]]:
    after: str | None = ""
    while after is not None:
        page = await owner.call("GET", "/devices", params={"query": query, "after": after, "limit": _PAGE})
        for device in page["items"]:
            yield device
        after = page["next"]


async def _enrolled(owner: Api, enrolment: str) -> AsyncIterator[dict[str, Any]]:
    after = ""
    while page := await owner.call("GET", at("enrolment-lists", enrolment), params={"after": after, "limit": _PAGE}):
        for entry in page:
            yield {**entry, "name": entry["value"]}
        after = page[-1]["value"]
