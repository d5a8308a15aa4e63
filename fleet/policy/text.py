"""Policy documents as text: JSON, and YAML in the same words or in short ones. Pure.

- allow: [publish, retain]
  to: devices/${device.id}/*
  name: own branch
  if: {IpAddress: {source.address: 10.0.0.0/8}}
"""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from fleet.policy.document import MAX_BYTES, MAX_STATEMENTS, VERSION, Document, Effect, read
from fleet.policy.pattern import PolicyError

_DEPTH = 20
_SHORT = {"name": "Sid", "to": "Resource", "if": "Condition"}
_EFFECTS = {"allow": Effect.ALLOW, "deny": Effect.DENY}


def read_text(text: str) -> tuple[dict[str, Any], Document]:
    """Read JSON or YAML: the document in long words, and what it means. Raises PolicyError that names the place."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise PolicyError(f"policy: more than {MAX_BYTES} bytes")
    given = _parsed(text)
    if isinstance(given, list):
        given = _long(given)
    found = read(given)
    return given, found


def _parsed(text: str) -> Any:
    if text.lstrip()[:1] in {"{", "["}:
        try:
            return json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise PolicyError(f"policy: line {error.lineno}, column {error.colno}: {error.msg}") from None
        except RecursionError:
            raise PolicyError("policy: nested too deep") from None
    try:
        _check_events(text)
        return yaml.load(text, yaml.BaseLoader)  # texts only: a date stays as it was written
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PolicyError(f"policy: {_line(mark)}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise PolicyError(f"policy: {' '.join(str(error).split())}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise PolicyError(f"policy: {twice[:80]!r} stands twice in one object")
    return found


def _check_events(text: str) -> None:
    """YAML can stand for much more than it says: no aliases, no deep nesting, and no key twice."""
    depth = 0
    for event in yaml.parse(text, yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            raise PolicyError(f"policy: {_line(event.start_mark)}: no aliases, please")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEPTH:
            raise PolicyError(f"policy: {_line(event.start_mark)}: nested too deep")
    _check_keys(yaml.compose(text, yaml.BaseLoader))


def _check_keys(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                raise PolicyError(f"policy: {_line(key.start_mark)}: {str(key.value)[:80]!r} stands twice")
            seen.add(str(key.value))
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value)


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "YAML"


def _long(short: list[Any]) -> dict[str, Any]:
    if len(short) > MAX_STATEMENTS:
        raise PolicyError(f"policy: {len(short)} statements, the limit is {MAX_STATEMENTS}")
    return {"Version": VERSION, "Statement": [_statement(one, f"[{number}]") for number, one in enumerate(short)]}


def _statement(short: Any, place: str) -> dict[str, Any]:
    if not isinstance(short, Mapping):
        raise PolicyError(f"{place}: an object with allow or deny, and to is wanted")
    found: dict[str, Any] = {}
    for key, value in short.items():
        if key in _EFFECTS and "Effect" not in found:
            found |= {"Effect": _EFFECTS[key].value, "Action": value}
        elif key in _SHORT:
            found[_SHORT[key]] = value
        elif key in _EFFECTS:
            raise PolicyError(f"{place}: both allow and deny")
        else:
            known = ", ".join([*_EFFECTS, *_SHORT])
            raise PolicyError(f"{place}: unknown field {str(key)[:80]!r}; known are {known}")
    if "Effect" not in found:
        raise PolicyError(f"{place}: neither allow nor deny")
    return found
