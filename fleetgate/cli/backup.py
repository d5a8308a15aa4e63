"""`backup` and `restore`: the state folder as one file, made while everything goes on, and back from it."""

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from fleetgate.backup import restore
from fleetgate.cli.files import read_text
from fleetgate.cli.operations import finished, progress_bars
from fleetgate.cli.output import print_json, say
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, Target, api, run, target
from fleetgate.errors import ArgumentError
from fleetgate.times import iso

PASSPHRASE_VARIABLE = "FLEETGATE_BACKUP_PASSPHRASE"

PassphraseFile = Annotated[
    Path | None,
    typer.Option(help=f"File with the passphrase for keys (else ${PASSPHRASE_VARIABLE}).", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("backup")(_backup)
    app.command("restore")(_restore)


def _backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File to make; not there yet.")],
    passphrase_file: PassphraseFile = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Back the state up into one file while everything goes on. What was acknowledged before is in it.

    Keys and the token in it are encrypted by the passphrase. One that was interrupted goes on when asked for again.
    """
    passphrase = _passphrase(passphrase_file, "Passphrase for the keys in it (empty: they are not encrypted): ")
    if passphrase is None:
        say("no passphrase: keys are in it as they are, keep it as you keep those")
    found = run(_made(target(context, state, config), file.absolute(), passphrase))
    if as_json:
        print_json(found)
    else:
        say(f"{found['file']}: {decimal(found['bytes'])}, with all that was acknowledged before {found['at']}")


def _restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The backup.")],
    passphrase_file: PassphraseFile = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Bring a backup back into a state folder that is not there, or empty. Each file is verified."""
    on = target(context, state, config)
    passphrase = _passphrase(passphrase_file, "Passphrase of the backup: ")
    with progress_bars() as shown:
        bar = shown.add_task("bytes", total=None)
        manifest = restore(
            file,
            on.state.path.absolute(),
            passphrase,
            lambda done, total: shown.update(bar, completed=done, total=total),
        )
    if as_json:
        print_json({"state": str(on.state.path), "files": len(manifest.files), "at": iso(manifest.at)})
    else:
        say(f"{on.state.path}: {len(manifest.files)} files, with all that was acknowledged before {iso(manifest.at)}")


def _passphrase(file: Path | None, prompt: str) -> bytes | None:
    if file is not None:
        found = read_text(file).strip()
        if not found:
            raise ArgumentError(f"--passphrase-file {file}: it is empty")
    else:
        found = os.environ.get(PASSPHRASE_VARIABLE, "")
        if not found and sys.stdin.isatty():
            found = getpass.getpass(prompt)
    return found.encode() or None


async def _made(on: Target, file: Path, passphrase: bytes | None) -> dict[str, Any]:
    body = {"file": str(file)} | ({} if passphrase is None else {"passphrase": passphrase.decode()})
    with progress_bars() as shown:
        async with api(on) as owner:
            operation = await owner.call("POST", "/backups", json=body, timeout=None)
            return await finished(owner, operation, shown, shown.add_task("backup", total=None))
