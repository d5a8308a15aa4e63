"""Groups of devices in a hierarchy: static ones have the devices that were put in, dynamic ones those a query finds.

The devices of a group are its own and those of all groups below it. Pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fleet.errors import ConflictError
from fleet.registry.query.model import And, Not, Or, Query, Term
from fleet.registry.query.parser import parse

MAX_DEPTH = 20


@dataclass(frozen=True, slots=True)
class Group:
    """A group. `query` is None for a static one."""

    name: str
    parent: str | None = None
    query: str | None = None
    description: str = ""
    version: int = 1
    created: int = 0
    updated: int = 0


def with_descendants(groups: Mapping[str, Group], name: str) -> list[Group]:
    """Return a group and all groups below it."""
    found = [groups[name]]
    for group in found:
        found += (child for child in groups.values() if child.parent == group.name)
    return found


def check_no_cycle(groups: Mapping[str, Group], name: str) -> None:
    """Raise ConflictError when a group would be above itself, or its query would ask for itself."""
    _walk(groups, name, (name,), set())


def _walk(groups: Mapping[str, Group], name: str, path: tuple[str, ...], done: set[str]) -> None:
    """What the devices of a group depend on: those of its children, and of the groups its query asks for."""
    if name in done or name not in groups:
        return
    if len(path) > MAX_DEPTH:
        raise ConflictError(f"group {path[0]} would be more than {MAX_DEPTH} groups deep")
    query = groups[name].query
    below = [child.name for child in groups.values() if child.parent == name]
    below += [] if query is None else groups_asked_for(parse(query, 0))
    for other in below:
        if other in path:
            raise ConflictError(f"group {path[0]} would contain itself: {' > '.join((*path, other))}")
        _walk(groups, other, (*path, other), done)
    done.add(name)


def groups_asked_for(query: Query) -> Iterator[str]:
    """Yield the names of the groups that a query asks for."""
    match query:
        case Term(field="group"):
            yield str(query.value)
        case Not(part):
            yield from groups_asked_for(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from groups_asked_for(part)
