"""Policies for tests: documents compiled without a database."""

import json
from contextlib import AsyncExitStack

from fleet.policy.compiled import Attached, Caller, Compiled, Program
from fleet.policy.decisions import Decisions
from fleet.policy.service import Policies
from fleet.policy.text import read_text
from fleet.registry import Groups, Registry, Types

OWN_BRANCH = """
- {name: Connect, allow: connect, to: "${device.id}"}
- {name: Send, allow: [publish, retain], to: "devices/${device.id}/*"}
- {name: Receive, allow: [subscribe, receive], to: ["devices/${device.id}", "devices/${device.id}/*"]}
"""
"""What every device may do by default."""


def compiled(*texts, unknown=frozenset(), seen=None, **values) -> Compiled:
    """Rights by these documents, named p1, p2 and so on; values by name with _ for the dots."""
    attached = [
        Attached(f"p{number}", 1, read_text(text if isinstance(text, str) else json.dumps(text))[1])
        for number, text in enumerate(texts, 1)
    ]
    known = {name.replace("_", "."): value for name, value in values.items()}
    caller = Caller(str(known.get("device.id", "")))
    return Compiled(Program(attached), known, caller, unknown=unknown, seen=seen)


def own_branch(name: str) -> Compiled:
    """The rights of a device with nothing but the default policy."""
    return compiled(OWN_BRANCH, device_id=name)


async def open_policies(stack: AsyncExitStack, registry: Registry, **more) -> tuple[Policies, Decisions]:
    """Policies of a registry."""
    groups = await stack.enter_async_context(Groups(registry))
    types = await stack.enter_async_context(Types(registry.database))
    decisions = await stack.enter_async_context(Decisions(registry.database))
    return await stack.enter_async_context(Policies(registry, groups, types, decisions, **more)), decisions
