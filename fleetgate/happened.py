"""What happened to a device, as it is said outside: by the API, as server-sent events, over MQTT."""

from collections.abc import Mapping
from typing import Any

from fleetgate.times import iso

_TIMES = frozenset({"not_before", "not_after", "last_data"})


def said(details: Mapping[str, Any]) -> dict[str, Any]:
    """Details of an event of presence: times are ISO 8601."""
    return {key: iso(value) if key in _TIMES and value is not None else value for key, value in details.items()}
