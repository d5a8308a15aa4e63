"""`device import`: registers a list of devices, with a progress bar, and a report on the rows that are bad."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, TaskID

from fleet.authority import signing_request
from fleet.files import write_private, write_public
from fleet.provisioning.rows import Form, Row, decode, read
from fleetgate.cli.files import read_bytes
from fleetgate.cli.operations import finished, progress_bars
from fleetgate.cli.output import print_json, print_table, say
from fleetgate.cli.target import Api, ConfigOption, JsonOption, StateOption, Target, api, run, target
from fleetgate.errors import ArgumentError

_LIST_BYTES = 512 * 1024 * 1024
"""As the server takes it."""
_FORMS = {".csv": Form.CSV, ".ndjson": Form.JSON_LINES, ".jsonl": Form.JSON_LINES}
_MEDIA_TYPES = {Form.CSV: "text/csv", Form.JSON_LINES: "application/x-ndjson"}
_NEW_KEYS = 20_000
"""Certificates that one operation answers with."""


def import_devices(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The list: .csv, or .ndjson (a JSON object a line).")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder, or .zip, for a folder a device: new key, certificate, ca.pem."),
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would come of it.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Register the good rows anyway.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register a list of devices: all of them, or none when a row is bad. Exit code 1 when one is."""
    form = _FORMS.get(file.suffix.lower())
    if form is None:
        raise ArgumentError(f"{file}: its name ends with none of {', '.join(_FORMS)}")
    if out is not None and skip_bad:
        raise ArgumentError("--out and --skip-bad exclude each other")
    if out is not None and out.exists() and (out.suffix == ".zip" or any(out.iterdir())):
        raise ArgumentError(f"{out} is there already: keys are not written over others")
    params = {"dry_run": dry_run, "skip_bad": skip_bad}
    found = run(_import(target(context, state, config), read_bytes(file, _LIST_BYTES), form, params, out))
    if as_json:
        print_json({key: value for key, value in found.items() if key not in {"issued", "ca"}})
    else:
        if found["bad"]:
            print_table(("line", "name", "problem"), found["bad"])
        would = "would be " if dry_run else ""
        say(f"{found['added']} of {found['rows']} {would}registered, {found['bad_count']} bad")
    if found["bad_count"]:
        raise typer.Exit(1)


async def _import(on: Target, data: bytes, form: Form, params: dict[str, bool], out: Path | None) -> dict[str, Any]:
    with progress_bars() as bars:
        async with api(on) as owner:
            if out is None:
                return await _operate(owner, data, form, params, bars, bars.add_task("devices", total=None))
            # bad rows are named by the lines of the list as it is: tried first, without the keys
            tried = await _operate(
                owner, data, form, {**params, "dry_run": True}, bars, bars.add_task("checked", total=None)
            )
            if tried["bad_count"] or params["dry_run"]:
                return tried
            rows = [row for row in read(io.StringIO(decode(data), newline=""), form) if isinstance(row, Row)]
            keys, lines = _with_keys(rows, bars, bars.add_task("keys", total=len(rows)))
            found = await _operate(owner, lines, Form.JSON_LINES, params, bars, bars.add_task("registered", total=None))
    _write(out, _files(keys, found["issued"], found["ca"].encode()))
    return found


async def _operate(
    owner: Api, data: bytes, form: Form, params: dict[str, bool], bars: Progress, bar: TaskID
) -> dict[str, Any]:
    headers = {"Content-Type": _MEDIA_TYPES[form]}
    operation = await owner.call("POST", "/device-imports", content=data, headers=headers, params=params, timeout=None)
    result = await finished(owner, operation, bars, bar)
    bars.update(bar, completed=result["rows"], total=result["rows"])
    return result


def _with_keys(rows: list[Row], bars: Progress, bar: TaskID) -> tuple[dict[str, bytes], bytes]:
    """New keys by device, and the list with their signing requests: devices that have a certificate need none."""
    keys: dict[str, bytes] = {}
    lines = []
    for row in rows:
        known = row.details
        line: dict[str, Any] = {
            "name": row.name,
            "display_name": known.display_name,
            "type": known.type,
            "site": known.site,
            "notes": known.notes,
            "attributes": known.attributes,
            "tags": known.tags,
        }
        if row.certificate or row.csr:
            line |= {"certificate": row.certificate or "", "csr": row.csr or ""}
        else:
            keys[row.name], request = signing_request(row.name)
            line["csr"] = request.decode()
        lines.append(json.dumps(line))
        bars.advance(bar)
    if len(keys) > _NEW_KEYS:
        raise ArgumentError(f"--out: {len(keys)} new keys are more than {_NEW_KEYS}: import the list in parts")
    return keys, "\n".join(lines).encode()


def _files(keys: dict[str, bytes], issued: dict[str, str], ca: bytes) -> Iterator[tuple[str, bytes]]:
    for name, certificate in issued.items():
        yield f"{name}/ca.pem", ca
        yield f"{name}/{name}.pem", certificate.encode()
        if name in keys:
            yield f"{name}/{name}-key.pem", keys[name]


def _write(out: Path, files: Iterator[tuple[str, bytes]]) -> None:
    if out.suffix == ".zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in files:
                entry = zipfile.ZipInfo(path)
                entry.external_attr = (0o600 if path.endswith("-key.pem") else 0o644) << 16
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_private(out, packed.getvalue())
        return
    for path, data in files:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (write_private if path.endswith("-key.pem") else write_public)(out / path, data)
