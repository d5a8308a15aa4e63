"""`doctor`: whether this machine and this state folder are fit to serve."""

import asyncio
import resource
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import typer

from fleet.authority import read_certificate
from fleet.errors import InvalidCertificateError
from fleet.registry.moving import moved_to
from fleet.state import StateFolder
from fleetgate.addresses import parse_bind
from fleetgate.cli.output import print_json, print_table
from fleetgate.cli.target import ConfigOption, JsonOption, StateOption, Target, target
from fleetgate.errors import ArgumentError
from fleetgate.history import available
from fleetgate.postgres import reachable
from fleetgate.renewal import WARN
from fleetgate.timekeeping import unconfirmed
from ingester.clock import clock_problem, is_believed, moment, now_us
from ingester.errors import StoreError
from ingester.sqlite.opening import read_only

_FREE_BYTES = 1024**3
_FAILED_ROUNDS = 3
"""So many in a row are no passing fault."""
_FILES = 65_536


class Finding(NamedTuple):
    """One thing that was looked at. `status` is ok, warning or error."""

    check: str
    status: str
    detail: str


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(doctor)


def doctor(
    context: typer.Context, state: StateOption = None, config: ConfigOption = None, *, json: JsonOption = False
) -> None:
    """Check ports, clock, certificates, disk, file limit and databases. Exit code 1 when something is broken."""
    found = list(_findings(target(context, state, config)))
    if json:
        print_json([finding._asdict() for finding in found])
    else:
        print_table(Finding._fields, [finding._asdict() for finding in found])
    if any(finding.status == "error" for finding in found):
        raise typer.Exit(1)


def _findings(on: Target) -> Iterator[Finding]:
    server = on.state.server()
    mqtt = on.settings.mqtt
    binds = {"mqtts": mqtt.bind, "http": on.settings.http.bind, "wss": mqtt.wss_bind, "mqtt": mqtt.plain_bind}
    for scheme, bind in binds.items():
        if bind:
            yield _port(scheme, bind, server.get(scheme))
    if "http" in server:
        yield from _background(server["http"])
    yield from _set_aside(on.state.telemetry / "journal.db")
    yield _clock(on.state)
    yield from _certificates(on.state.pki)
    yield _disk(on.state.path)
    yield _files()
    if url := on.settings.registry.url.get_secret_value():
        yield _postgres(url, "registry in postgres", "devices that are known go on")
    else:
        yield _registry(on.state.fleet_db)
    yield _database("sessions", on.state.mqtt_db)
    yield _database("telemetry", on.state.telemetry / "journal.db")
    if url := on.settings.store.url.get_secret_value():
        yield _postgres(url, "telemetry in postgres", "telemetry stays in the journal meanwhile")
    else:
        yield _history(on.settings.history.seal)


def _background(served: str) -> Iterator[Finding]:
    """Work of the server that fails: an error once it has failed again and again."""
    try:
        found = httpx.get(f"http://{served}/readyz", headers={"Accept": "application/json"}, timeout=5).json()
        reason, failing = found["reason"], found["failing"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        yield Finding("background", "error", f"http://{served}/readyz does not answer: {error}")
        return
    if reason is not None:
        yield Finding("ready", "error", reason)
    for one in failing:
        status = "error" if one["failures"] >= _FAILED_ROUNDS else "warning"
        detail = f"fails since {one['since']}, {one['failures']} times: {one['error']}"
        yield Finding(f"background {one['work']}", status, detail)
    if not failing:
        yield Finding("background", "ok", "sealing, retention and all other background work succeed")


def _set_aside(path: Path) -> Iterator[Finding]:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            found = connection.execute("SELECT count(*) FROM quarantine WHERE reason = 'seal'").fetchone()
    except sqlite3.Error:
        return  # it is missing, or damaged: that is found elsewhere
    if found[0]:
        detail = f"{found[0]} messages could not be sealed: `fleetgate quarantine list --reason seal` shows them"
        yield Finding("sealing", "warning", detail)


def _history(seal: bool) -> Finding:
    if not seal:
        return Finding("history", "ok", "history.seal = false: telemetry stays in the journal")
    if not available():
        return Finding("history", "warning", "nothing is sealed: install fleetgate[analytics]")
    return Finding("history", "ok", "the journal is sealed into files")


def _postgres(url: str, check: str, meanwhile: str) -> Finding:
    try:
        detail = asyncio.run(reachable(url))
    except (StoreError, ArgumentError) as error:
        return Finding(check, "error", f"{error}; {meanwhile}")
    return Finding(check, "error" if "fsync is off" in detail else "ok", detail)


def _port(scheme: str, bind: str, served: str | None) -> Finding:
    check = f"port {scheme}"
    if served is not None:
        try:
            socket.create_connection(parse_bind(served), timeout=2).close()
        except OSError as error:
            return Finding(check, "error", f"served on {served}, but: {error}")
        return Finding(check, "ok", f"served on {served}")
    try:
        host, port = parse_bind(bind)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        return Finding(check, "error", f"{bind}: {error.strerror or error}")
    return Finding(check, "ok", f"{bind} is free")


def _clock(state: StateFolder) -> Finding:
    now = now_us()
    if not is_believed(now):
        return Finding("clock", "error", f"{clock_problem(now)}: no certificate is made, and none can be judged")
    said = moment(now).isoformat(timespec="seconds")
    ahead = unconfirmed(state)
    if ahead >= timedelta(days=1):
        return Finding("clock", "warning", f"{said}: it was set ahead by {ahead}, and nothing expires by it yet")
    return Finding("clock", "ok", said)


def _certificates(pki: Path) -> Iterator[Finding]:
    now = moment(now_us())
    for name, of in (("ca", "root"), ("issuing", "issuing"), ("server", "server")):
        check = f"certificate {name}"
        path = pki / f"{name}.pem"
        if not path.exists():
            if of == "issuing" and (pki / "ca.pem").exists():
                continue  # the root issues itself
            yield Finding(check, "warning", f"{path} is missing: `fleetgate init` makes it")
            continue
        try:
            found = read_certificate(path.read_bytes())
        except (OSError, InvalidCertificateError) as error:
            yield Finding(check, "error", f"{path}: {error}")
            continue
        begin, until = found.not_valid_before_utc, found.not_valid_after_utc
        left = until - now
        if now < begin:
            yield Finding(check, "error", f"not valid before {begin.isoformat()}: the server renews it")
            continue
        status = "error" if left <= timedelta() else "warning" if left < WARN[of] else "ok"
        yield Finding(check, status, f"valid until {until.date()}, {left.days} days")
    for key in pki.glob("*-key.pem"):
        if key.stat().st_mode & 0o077:
            yield Finding("key", "error", f"{key} can be read by others")


def _disk(path: Path) -> Finding:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    return Finding("disk", "ok" if free >= _FREE_BYTES else "warning", f"{free / 1e9:.1f} GB free at {there}")


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"{soft} open files allowed (hard limit {hard}): about as many connections"
    return Finding("file limit", "ok" if soft >= _FILES else "warning", detail)


def _registry(path: Path) -> Finding:
    found = _database("registry", path)
    moved = moved_to(path) if found.status == "ok" else None
    if moved is None:
        return found
    return Finding(found.check, "error", f"{path} was moved to {moved}: say in registry.url where that is")


def _database(name: str, path: Path) -> Finding:
    check = f"database {name}"
    if not path.exists():
        return Finding(check, "warning", f"{path} is missing: `fleetgate init` makes it")
    try:
        connection = read_only(path)
        try:
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Finding(check, "error", f"{path}: {error}")
    size = path.stat().st_size
    return Finding(check, "ok" if result == "ok" else "error", f"{path}: {result}, {size / 1e6:.1f} MB")
