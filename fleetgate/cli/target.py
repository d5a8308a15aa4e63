"""What a command works on: the state folder and its settings, and the API of its owner, running or opened here."""

import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer
import uvloop

from fleet.errors import StateInUseError
from fleet.state import StateFolder
from fleetgate import __version__
from fleetgate.client.transport import ApiError, segment
from fleetgate.core import open_core
from fleetgate.errors import ArgumentError
from fleetgate.http.access import CLI_AGENT
from fleetgate.http.api import create_api
from fleetgate.http.server import HttpServer
from fleetgate.logs import logging_to
from fleetgate.settings import Settings, load

TOKEN_VARIABLE = "FLEETGATE_TOKEN"
"""Environment variable with the token of an operator, who is not who has the state folder's admin.token."""
URL_VARIABLE = "FLEETGATE_URL"
"""Environment variable with the address of a server: the state folder need not be here then."""
_OWNER_SECONDS = 5.0
_OWNER_POLL_SECONDS = 0.1

StateOption = Annotated[
    Path | None,
    typer.Option("--state", help="State folder (default: $FLEETGATE_STATE, else ./var).", show_default=False),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file (default: config/fleetgate.toml).", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class CommandError(Exception):
    """A command can't do what it was asked; the message is one clear line."""


@dataclass(frozen=True)
class Target:
    """State folder and settings."""

    state: StateFolder
    settings: Settings


@dataclass
class _Given:
    state: Path | None = None
    config: Path | None = None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def version_and_folder(
    context: typer.Context,
    state: Annotated[
        Path | None, typer.Option("--state", envvar="FLEETGATE_STATE", help="State folder (default ./var).")
    ] = None,
    config: ConfigOption = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take the options that stand before the command."""
    context.obj = _Given(state, config)


def target(context: typer.Context, state: Path | None, config: Path | None) -> Target:
    """Work out state folder and settings; an option behind the command counts more than one before it."""
    given = context.obj if isinstance(context.obj, _Given) else _Given()
    folder = state or given.state or Path("var")
    try:
        folder = folder.expanduser()
    except RuntimeError as error:  # nobody has that home
        raise ArgumentError(f"state folder {folder}: {error}") from None
    return Target(StateFolder(folder), load(config or given.config))


def at(*parts: object, slashes: bool = False) -> str:
    """The path of the API with these parts, each of which is one whatever characters it has.

    Raises ArgumentError for a part that can't be one, see transport.segment: client ids may have slashes.
    """
    try:
        return "".join(f"/{segment(part, slashes=slashes)}" for part in parts)
    except ApiError as error:
        raise ArgumentError(error.detail) from None


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a command's coroutine on uvloop."""
    # The loop must not wait long: for a thread that decodes for a query 1 ms (the default is 5), for a collection of
    # garbage what a few thousand objects take. All are looked at once in 40 million new ones, those of the start never.
    sys.setswitchinterval(0.001)
    gc.set_threshold(2_000, 1, 10_000)
    gc.freeze()
    return uvloop.run(main)


class Api:
    """The API of the state folder's owner."""

    def __init__(self, client: httpx.AsyncClient, *, served: bool) -> None:
        self._client = client
        self.served = served
        """Whether a server runs; False: the folder is open in this process only."""

    async def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call and return the JSON answer. Raises CommandError with what the problem document says."""
        answer = await self.fetch(method, path, **arguments)
        try:
            return orjson.loads(answer)
        except orjson.JSONDecodeError:
            raise CommandError(f"{self._client.base_url}: the answer is not JSON: not a fleetgate server") from None

    async def fetch(self, method: str, path: str, **arguments: Any) -> bytes:
        """Call and return the answer's body as it came. Raises CommandError as `call` does."""
        return (await self.answer(method, path, **arguments)).content

    async def answer(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Call and return the answer. Raises CommandError as `call` does."""
        try:
            response = await self._client.request(method, f"/api/v1{path}", **arguments)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise CommandError(f"{self._client.base_url}: {error or type(error).__name__}") from None
        except UnicodeError:
            raise
        except ValueError as error:  # from the encoder of JSON
            raise ArgumentError(f"a number is infinite, or none: {error}") from None
        if not response.is_success:
            raise CommandError(_detail(response))
        return response

    async def lines(self, path: str, params: dict[str, Any]) -> AsyncIterator[str]:
        """Stream an answer of JSON lines."""
        request = self._client.build_request(
            "GET", f"/api/v1{path}", params=params, headers={"Accept": "application/x-ndjson"}, timeout=None
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise CommandError(f"{self._client.base_url}: {error or type(error).__name__}") from None
        try:
            if response.is_error:
                await response.aread()
                raise CommandError(_detail(response))
            async for line in response.aiter_lines():
                yield line
        except httpx.RemoteProtocolError:
            raise CommandError("the server ended the answer before its end") from None
        finally:
            await response.aclose()


@asynccontextmanager
async def api(on: Target) -> AsyncIterator[Api]:
    """Reach the server that FLEETGATE_URL names, or the owner of the state folder, or own it for the time of the block.

    A folder that is in use but has no API yet is waited for a little; then raises StateInUseError.
    """
    if url := os.environ.get(URL_VARIABLE):
        async with _client(on, url.rstrip("/"), httpx.AsyncHTTPTransport()) as client:
            yield Api(client, served=True)
            return
    deadline = time.monotonic() + _OWNER_SECONDS
    while True:
        if await is_served(on):
            async with _client(on, _address(on), httpx.AsyncHTTPTransport()) as client:
                yield Api(client, served=True)
                return
        try:
            async with _own(on) as owned:
                yield owned
                return
        except StateInUseError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_OWNER_POLL_SECONDS)


async def call(on: Target, method: str, path: str, **arguments: Any) -> Any:
    """One call of the owner's API; see Api.call."""
    async with api(on) as owner:
        return await owner.call(method, path, **arguments)


async def is_served(on: Target) -> bool:
    """Whether a server runs on the state folder and answers."""
    if not on.state.server():
        return False
    with suppress(httpx.TransportError, ArgumentError):
        async with _client(on, _address(on), httpx.AsyncHTTPTransport()) as client:
            return (await client.get("/healthz", timeout=5)).is_success
    return False


def _address(on: Target) -> str:
    return f"http://{on.state.server().get('http')}"


@asynccontextmanager
async def _own(on: Target) -> AsyncIterator[Api]:
    with logging_to(None, "warning", 1, 1), tempfile.TemporaryDirectory(prefix="fleetgate-") as folder:
        socket = Path(folder) / "api"
        async with (
            open_core(on.settings, on.state) as core,
            HttpServer(create_api(core), unix=socket),
            _client(on, "http://owner", httpx.AsyncHTTPTransport(uds=str(socket))) as client,
        ):
            yield Api(client, served=False)


def _client(on: Target, base: str, transport: httpx.AsyncHTTPTransport) -> httpx.AsyncClient:
    token = os.environ.get(TOKEN_VARIABLE) or on.state.token()
    if not (token.isascii() and token.isprintable()):
        raise ArgumentError(f"{TOKEN_VARIABLE}: no token has such characters")
    headers = {"Authorization": f"Bearer {token}", "User-Agent": f"{CLI_AGENT}{__version__}"}
    try:
        return httpx.AsyncClient(base_url=base, headers=headers, transport=transport, timeout=60, trust_env=False)
    except httpx.InvalidURL as error:
        raise ArgumentError(f"{URL_VARIABLE} {base[:80]!r}: {error}") from None


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
