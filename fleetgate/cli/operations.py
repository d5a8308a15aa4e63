"""Operations of the API, waited for with a progress bar."""

import asyncio
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fleetgate.cli.output import progress_console
from fleetgate.cli.target import Api, CommandError, at

_POLL_SECONDS = 0.1


def progress_bars() -> Progress:
    """Bars that go away when they are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=progress_console, transient=True)


async def finished(owner: Api, operation: dict[str, Any], bars: Progress, bar: TaskID) -> dict[str, Any]:
    """The result of an operation, once there is one. Raises CommandError when it failed."""
    while operation["state"] == "running":
        bars.update(bar, completed=operation["done"], total=operation["total"])
        await asyncio.sleep(_POLL_SECONDS)
        operation = await owner.call("GET", at("operations", operation["id"]))
    if operation["state"] == "failed":
        raise CommandError(operation["problem"])
    result: dict[str, Any] = operation["result"]
    return result
