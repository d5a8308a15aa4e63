"""Hooks: what a program of the operator's is asked before something is made, over HTTP or as a Python function.

No answer, an error, or an answer that says nothing is a no.
"""

import asyncio
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import httpx

from fleet.errors import FleetError

HOOKS = ("http://", "https://", "python:")
"""How a hook begins."""
SECONDS = 5.0
_ANSWER_BYTES = 256 * 1024
_PYTHON = "python:"


class HookError(FleetError):
    """A hook that says no, or does not answer."""


async def ask(hook: str, question: Mapping[str, Any], seconds: float = SECONDS) -> dict[str, Any]:
    """Ask a hook: POST of JSON to a URL, or a call of `python:module:function`; its answer, an object.

    Raises HookError.
    """
    try:
        async with asyncio.timeout(seconds):
            found = await (_call(hook, question) if hook.startswith(_PYTHON) else _post(hook, question, seconds))
    except TimeoutError:
        raise HookError(f"{hook}: no answer within {seconds:g} s") from None
    if not isinstance(found, dict):
        raise HookError(f"{hook}: the answer is not an object")
    return found


async def ask_permission(hook: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Ask whether something may be: the answer, which says `"allow": true`. Raises HookError with its `reason`."""
    answer = await ask(hook, question)
    if answer.get("allow") is not True:
        raise HookError(str(answer.get("reason", "the hook does not allow it"))[:500])
    return answer


async def _post(url: str, question: Mapping[str, Any], seconds: float) -> Any:
    try:
        async with httpx.AsyncClient(timeout=seconds, trust_env=False) as client:
            answer = await client.post(url, json=question)
            answer.raise_for_status()
            if len(answer.content) > _ANSWER_BYTES:
                raise HookError(f"{url}: the answer is longer than {_ANSWER_BYTES} bytes")
            return answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise HookError(f"{url}: {error or type(error).__name__}") from None


async def _call(hook: str, question: Mapping[str, Any]) -> Any:
    module, _, function = hook.removeprefix(_PYTHON).partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
        if inspect.iscoroutinefunction(found):
            return await found(dict(question))
        return await asyncio.to_thread(found, dict(question))
    except Exception as error:
        # Supervision point: somebody else's code. Whatever goes wrong in it is a no.
        raise HookError(f"{hook}: {type(error).__name__}: {error}") from error
