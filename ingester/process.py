"""The worker process, as the loop sees it."""

import asyncio
import pickle
import sys
from typing import Any, Self

from ingester.child import Child
from ingester.errors import IngestError
from ingester.worker import LENGTH


class WorkerLostError(IngestError):
    """The worker process ended in the middle of its work; nothing came of it."""


class Worker:
    """Runs functions in a process of its own, which is started when it is needed. An async context manager.

    `nice` is how much it stands back behind others, at most 19. A call that takes longer than `seconds` is lost; None:
    it may take any time.
    """

    def __init__(self, nice: int, seconds: float | None = None) -> None:
        self._nice = nice
        self._seconds = seconds
        self._process: Child | None = None
        self._busy = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def call(self, function: str, *arguments: Any) -> Any:
        """What `module:function` returns, or raises. Raises WorkerLostError."""
        async with self._busy:
            process = self._process or await self._start()
            try:
                async with asyncio.timeout(self._seconds):
                    done, result = await _answer(process, pickle.dumps((function, arguments)))
            except TimeoutError as error:
                await self.stop()
                raise WorkerLostError(f"no answer within {self._seconds:g} seconds") from error
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                await self.stop()
                raise WorkerLostError(f"exit status {process.returncode}") from error
            except BaseException:
                await self.stop()  # what it would still answer is nobody's
                raise
        if not done:
            raise result
        return result

    async def stop(self) -> None:
        """End the process; a call that is going on fails."""
        if (process := self._process) is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()  # whoever is cancelled here leaves it to the next one
            self._process = None

    async def rest(self) -> None:
        """End an idle process; the next call starts another one."""
        async with self._busy:
            await self.stop()

    async def _start(self) -> Child:
        self._process = await Child.start([sys.executable, "-m", "ingester.worker", str(self._nice)])
        return self._process


async def _answer(process: Child, data: bytes) -> tuple[bool, Any]:
    """Its answer to a request: (True, result), or (False, error)."""
    process.stdin.write(LENGTH.pack(len(data)) + data)
    await process.stdin.drain()
    (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
    answer: tuple[bool, Any] = pickle.loads(await process.stdout.readexactly(length))
    return answer
