"""The state folder: where things are in it, and that it has one owner at a time."""

import contextlib
import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from fleet.errors import StateError, StateInUseError
from fleet.files import write_private

RESTORED = "restored.json"
"""What a state folder has that came out of a backup, until it was opened."""


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Paths below one folder."""

    path: Path

    @property
    def pki(self) -> Path:
        """CA and server certificate with their keys."""
        return self.path / "pki"

    @property
    def fleet_db(self) -> Path:
        """The registry."""
        return self.path / "fleet.db"

    @property
    def mqtt_db(self) -> Path:
        """Sessions, queues and retained messages."""
        return self.path / "mqtt.db"

    @property
    def telemetry(self) -> Path:
        """What devices sent."""
        return self.path / "telemetry"

    @property
    def datasets(self) -> Path:
        """Results of questions on a schedule."""
        return self.path / "datasets"

    @property
    def log(self) -> Path:
        """The ingest log."""
        return self.path / "logs" / "ingest.log"

    @property
    def token_file(self) -> Path:
        """The bearer token of the HTTP API."""
        return self.path / "admin.token"

    @property
    def server_file(self) -> Path:
        """Pid and addresses while a server runs."""
        return self.path / "server.json"

    @property
    def clock_file(self) -> Path:
        """The file with the steps of the wall clock: see ingester.ages."""
        return self.path / "clock.json"

    @property
    def simulator(self) -> Path:
        """Keys and certificates of simulated devices."""
        return self.path / "simulator"

    def make(self) -> None:
        """Make the folder and what it always holds. Raises StateError when it can't be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.pki, self.telemetry, self.log.parent):
                folder.mkdir(exist_ok=True, mode=0o700)
            if not self.token_file.exists():
                write_private(self.token_file, secrets.token_urlsafe(32).encode() + b"\n")
        except OSError as error:
            raise StateError(f"state folder {self.path}: {error.strerror or error}") from error

    def token(self) -> str:
        """The admin token. Raises StateError when the folder was never set up, or the file has no token."""
        try:
            found = self.token_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise StateError(f"{self.token_file}: {error.strerror}") from error
        except UnicodeDecodeError:
            found = ""
        if not found.isprintable() or not found:  # an empty one would let everybody in
            raise StateError(f"{self.token_file}: no token in it: remove the file, and a new one is made")
        return found

    def server(self) -> dict[str, Any]:
        """What server.json says; empty when no server runs, or it says something else than a server writes."""
        try:
            found = json.loads(self.server_file.read_text())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict) or not all(isinstance(found[key], str) for key in found.keys() - {"pid"}):
            return {}
        return found


class StateLock:
    """Ownership of a state folder, for the time of a `with` block. Raises StateInUseError on entering."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self._state.make()
        path = self._state.path / "lock"
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise StateInUseError(f"state folder {self._state.path} is in use by process {owner}") from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file
        # Nobody serves while we hold the lock: what a killed server left is not true any more.
        self._state.server_file.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
            self._file.close()
            self._file = None
