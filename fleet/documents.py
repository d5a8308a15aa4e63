"""Documents that people write, JSON or YAML, read with care: YAML can stand for much more than it says. Pure."""

import json
from typing import Any

import yaml

from fleet.errors import FleetError

MAX_BYTES = 64 * 1024
_DEPTH = 20


class DocumentError(FleetError):
    """A document that can't be; the message begins with the place."""


class _Wrong(Exception):  # noqa: N818 - becomes a DocumentError
    """What is wrong, and where."""


def parsed(text: str, what: str) -> Any:
    """Read JSON or YAML; scalars of YAML are texts. Raises DocumentError, which names the place in `what`."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise DocumentError(f"{what}: more than {MAX_BYTES} bytes")
    try:
        return _read(text)
    except _Wrong as wrong:
        raise DocumentError(f"{what}: {wrong}") from None


def _read(text: str) -> Any:
    if text.lstrip()[:1] in {"{", "["}:
        try:
            return json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise _Wrong(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
        except RecursionError:
            raise _Wrong("nested too deep") from None
    try:
        _check_events(text)
        return yaml.load(text, yaml.BaseLoader)  # texts only: a date stays as it was written
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _Wrong(f"{_line(mark)}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise _Wrong(f"{' '.join(str(error).split())}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Wrong(f"{twice[:80]!r} stands twice in one object")
    return found


def _check_events(text: str) -> None:
    """YAML can stand for much more than it says: no aliases, no deep nesting, and no key twice."""
    depth = 0
    for event in yaml.parse(text, yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _Wrong(f"{_line(event.start_mark)}: no aliases, please")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEPTH:
            raise _Wrong(f"{_line(event.start_mark)}: nested too deep")
    _check_keys(yaml.compose(text, yaml.BaseLoader))


def _check_keys(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                raise _Wrong(f"{_line(key.start_mark)}: {str(key.value)[:80]!r} stands twice")
            seen.add(str(key.value))
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value)


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "YAML"
