"""Device types: which attributes their devices must have, and what telemetry is expected of them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.registry.details import InvalidDetailsError, ValueKind, check_key, check_word

MAX_ATTRIBUTES = 100


@dataclass(frozen=True, slots=True)
class DeviceType:
    """A type. `telemetry` is a JSON Schema of what its devices send, None where nothing is said about it."""

    name: str
    description: str = ""
    required: Mapping[str, ValueKind] = field(default_factory=dict)
    telemetry: Mapping[str, Any] | None = None
    messages_per_minute: float | None = None
    version: int = 1
    created: int = 0
    updated: int = 0


def check_type(found: DeviceType) -> DeviceType:
    """Return a type; raises InvalidDetailsError that names the place."""
    check_word("name", found.name)
    if len(found.required) > MAX_ATTRIBUTES:
        raise InvalidDetailsError(f"required: {len(found.required)} are more than {MAX_ATTRIBUTES}")
    for key in found.required:
        check_key(key)
    if found.messages_per_minute is not None and not 0 < found.messages_per_minute < 1e9:
        raise InvalidDetailsError(f"messages_per_minute: {found.messages_per_minute} is not between 0 and 1e9")
    return found
