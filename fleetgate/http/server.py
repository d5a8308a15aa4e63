"""uvicorn in our loop, on a socket of ours, with our signal handling."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import uvicorn
from fastapi.concurrency import run_in_threadpool

_CLOSE_SECONDS = 1
_POLL_SECONDS = 0.005


class HttpServer:
    """Serves an ASGI application on `bind` (host, port), on a Unix socket, or with neither on connections of another
    listener, each by a `connection` of its own. `protocol` is uvicorn's, for who needs more of a connection. Beyond
    `most` connections the answer is 503. An async context manager.

    `proxies` are addresses whose X-Forwarded-For and -Proto count: of others they are not believed.

    `closing` is called when it stops, for streams that would never end by themselves.
    """

    def __init__(
        self,
        application: Any,
        *,
        bind: tuple[str, int] | None = None,
        unix: Path | None = None,
        closing: Callable[[], None] = lambda: None,
        protocol: type[asyncio.Protocol] | None = None,
        most: int | None = None,
        proxies: Sequence[str] = (),
    ) -> None:
        config = uvicorn.Config(
            application,
            http=protocol or "auto",
            limit_concurrency=most,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )
        config.load()
        self._config = config
        self._server = _Server(config)
        self._bind = bind
        self._unix = unix
        self._closing = closing
        self._task: asyncio.Task[None] | None = None
        self.address = bind
        """Where it listens: the port is the real one when `bind` has port 0."""

    async def __aenter__(self) -> Self:
        await run_in_threadpool(int)  # what the first call of it imports is imported now: it would hold up the loop
        self._task = asyncio.create_task(self._server.serve(self._listen()), name="http")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn has nothing to wait on
            await asyncio.sleep(_POLL_SECONDS)
        if self._task.done():
            await self._task
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing()
        self._server.should_exit = True
        if self._task is not None:
            try:
                await asyncio.wait([self._task], timeout=_CLOSE_SECONDS + 1)
            finally:  # it took too long, or a second signal interrupts the wait
                if not self._task.done():
                    self._task.cancel()
                    await asyncio.wait([self._task])
                    for server in self._server.servers:
                        server.close()

    def connection(self) -> Any:
        """A protocol for one connection that another listener accepted."""
        state = self._server.server_state
        return self._config.http_protocol_class(config=self._config, server_state=state, app_state={})  # type: ignore[call-arg]  # uvicorn's own have these

    def _listen(self) -> list[socket.socket]:
        if self._unix is not None:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(self._unix))
            return [listening]
        if self._bind is None:
            return []
        host, port = self._bind
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=512)
        self.address = listening.getsockname()[:2]
        return [listening]


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program."""
        yield
