"""Policy documents as text: JSON, and YAML in the same words or in short ones. Pure.

- allow: [publish, retain]
  to: devices/${device.id}/*
  name: own branch
  if: {IpAddress: {source.address: 10.0.0.0/8}}
"""

from collections.abc import Mapping
from typing import Any

from fleet.documents import parsed
from fleet.policy.document import MAX_STATEMENTS, VERSION, Document, Effect, read
from fleet.policy.pattern import PolicyError

_SHORT = {"name": "Sid", "to": "Resource", "if": "Condition"}
_EFFECTS = {"allow": Effect.ALLOW, "deny": Effect.DENY}


def read_text(text: str) -> tuple[dict[str, Any], Document]:
    """Read JSON or YAML: the document in long words, and what it means. Raises DocumentError that names the place."""
    given = parsed(text, "policy")
    if isinstance(given, list):
        given = _long(given)
    found = read(given)
    return given, found


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
