"""`dataset`: named questions on a schedule, and their results."""

import sys
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from fleet.documents import parsed
from fleetgate.cli.commands import Name, add_delete, add_list, add_show
from fleetgate.cli.files import File, read_document
from fleetgate.cli.output import print_json, print_list, progress_console, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, Target, api, at, call, run, target
from fleetgate.datasets import Definition
from fleetgate.errors import ArgumentError

_COLUMNS = ("name", "version", "watermark", "ran", "next_run", "problem")
_RESULTS = ("number", "at", "since", "until", "rows", "bytes", "delivered", "problem")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands = typer.Typer(help="Questions in SQL on a schedule, and their results.", no_args_is_help=True)
    add_list(commands, "/datasets", _COLUMNS)
    add_show(commands, "/datasets")
    add_delete(commands, "/datasets", "dataset", "Delete one and its results; what was delivered stays.")
    commands.command("set")(_set)
    commands.command("run")(_run)
    commands.command("results")(_results)
    commands.command("get")(_get)
    app.add_typer(commands, name="dataset")


def _set(
    context: typer.Context,
    name: Name,
    document: File,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Define one, or change it: JSON or YAML. It goes on where it was."""
    body: dict[str, Any] = {}

    def check(text: str) -> None:
        found = parsed(text, "dataset")
        if not isinstance(found, dict):
            raise ArgumentError("dataset: an object is wanted")
        try:
            Definition.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            where, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
            raise ArgumentError(f"dataset: {where}: {why}") from None
        body.update(found)

    read_document(document, check)
    found = run(call(target(context, state, config), "PUT", at("datasets", name), json=body))
    if as_json:
        print_json(found)
    else:
        say(f"dataset {name} has version {found['version']}")


def _run(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Ask now, whatever the schedule says."""
    with progress_console.status("asking"):
        found = run(call(target(context, state, config), "POST", at("datasets", name, "run"), timeout=None))
    if as_json:
        print_json(found)
    else:
        say(f"result {found['number']} has {found['rows']} rows")


def _results(
    context: typer.Context,
    name: Name,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List the results that are kept, the oldest first."""
    print_list(
        _RESULTS, run(call(target(context, state, config), "GET", at("datasets", name, "results"))), as_json=as_json
    )


def _get(
    context: typer.Context,
    name: Name,
    number: Annotated[int | None, typer.Option(help="Which one; the newest where it is left out.")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Print one result as it was made."""
    sys.stdout.buffer.write(run(_fetched(target(context, state, config), name, number)))
    sys.stdout.buffer.flush()


async def _fetched(on: Target, name: str, number: int | None) -> bytes:
    params = {} if number is None else {"number": number}
    async with api(on) as owner:
        return await owner.fetch("GET", at("datasets", name, "result"), params=params, timeout=None)
