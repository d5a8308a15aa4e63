"""A PostgreSQL server of the tests, on a port of its own."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

import asyncpg

_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
PATH = ":".join([os.environ["PATH"], "/usr/sbin", *map(str, _BINARIES)])


def timescaledb_is_installed() -> bool:
    """Whether the PostgreSQL that is started here has it."""
    version = Path(shutil.which("initdb", path=PATH)).resolve().parents[1].name
    return Path(f"/usr/share/postgresql/{version}/extension/timescaledb.control").exists()


class Postgres:
    """A context manager; its folder is a new one, and goes. Root starts it as `postgres`, as it has to."""

    def __init__(self, settings: str = "") -> None:
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def __enter__(self) -> Self:
        if os.getuid() == 0:
            shutil.chown(self._folder, "postgres")
        self._do("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        with (self._folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(f"listen_addresses = '127.0.0.1'\nport = {self.port}\n")
            settings.write(f"{self._settings}\n")
            settings.write(f"unix_socket_directories = '{self._folder}'\n")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start, and wait until it answers."""
        self._do("pg_ctl", "start", "-w", "-l", str(self._folder / "log"))

    def stop(self) -> None:
        """Stop as if the power failed."""
        self._do("pg_ctl", "stop", "-m", "immediate")

    def pause(self) -> None:
        """Stop its processes in the middle of what they do."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on; start it where it is stopped."""
        if self.pid() is None:
            self.start()
        self._signal(signal.SIGCONT)

    def pid(self) -> int | None:
        """Its first process."""
        try:
            return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        except FileNotFoundError:
            return None

    def url(self, database: str = "postgres") -> str:
        """Where a database is."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"test_{secrets.token_hex(4)}"
        self.ask(f"CREATE DATABASE {name}")
        return self.url(name)

    def ask(self, sql: str, url: str | None = None) -> list[tuple]:
        """Rows of a statement."""

        async def asked() -> list[tuple]:
            connection = await asyncpg.connect(url or self.url())
            try:
                return [tuple(row) for row in await connection.fetch(sql)]
            finally:
                await connection.close()

        return _in_thread(asked)

    def _signal(self, number: int) -> None:
        first = self.pid()
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for pid in (first, *map(int, children)):
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, number)

    def _do(self, program: str, *arguments: str) -> None:
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        path = shutil.which(program, path=PATH)
        # Not our pipes: a server that is started keeps them open.
        with (self._folder / "output").open("wb") as output:
            done = subprocess.run(
                [*user, path, "-D", str(self._folder / "data"), *arguments],
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        assert done.returncode == 0, (self._folder / "output").read_text()


def _in_thread(function):
    """Whether or not a loop runs in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(function())).result(60)
