"""What the API answers as pandas DataFrames."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

_TIMES = ("time", "received", "created", "updated", "last_seen", "last_data")


def by_name(devices: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a device, a column an attribute: `attributes.fw`."""
    rows = [_flat(device) for device in devices]
    return _frame(rows).set_index("name") if rows else pd.DataFrame(index=pd.Index([], name="name"))


def by_time(readings: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a reading, a column a field."""
    rows = [_flat(row) for row in readings]
    return _frame(rows).set_index("time") if rows else pd.DataFrame(index=pd.DatetimeIndex([], name="time"))


def table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """As the rows are."""
    return pd.DataFrame(rows)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if name not in {"attributes", "fields", "kind"}}
    flat |= {f"attributes.{name}": value for name, value in row.get("attributes", {}).items()}
    return {**flat, **row.get("fields", {})}


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    for name in _TIMES:
        if name in frame:
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
    return frame
