"""The client: the generated methods, and those that show the fleet as pandas DataFrames (extra `notebook`)."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pandas as pd

from fleet.state import StateFolder
from fleetgate.client.operations import DeviceView, Operations

_TIMES = ("time", "received", "created", "updated", "last_seen", "last_data")
_PAGE = 200


class Client(Operations):
    """The API at `url`, with the token of an operator.

    `fleet`, `telemetry` and `sql_frame` make DataFrames; every endpoint has a method, named as its action is.
    """

    @classmethod
    def connect(cls, state: str | Path = "var") -> Self:
        """Reach FLEETGATE_URL with FLEETGATE_TOKEN, else the server of a state folder with its admin.token.

        Raises KeyError when no server runs on the folder, StateError when there is none.
        """
        folder = StateFolder(Path(state))
        url = os.environ.get("FLEETGATE_URL") or f"http://{folder.server()['http']}"
        return cls(url, os.environ.get("FLEETGATE_TOKEN") or folder.token())

    def devices(self, query: str = "") -> Iterator[DeviceView]:
        """Devices that a fleet query finds, by name; all of them without one."""
        after = ""
        while True:
            page = self.device_list(query=query, after=after, limit=_PAGE)
            yield from page["items"]
            if (following := page["next"]) is None:
                return
            after = following

    def fleet(self, query: str = "") -> pd.DataFrame:
        """The fleet, or what a query finds: a row a device, named by it; a column an attribute, `attributes.fw`."""
        rows = [_flat(device) for device in self.devices(query)]
        return _frame(rows).set_index("name") if rows else pd.DataFrame(index=pd.Index([], name="name"))

    def telemetry(self, device: str, **asked: Any) -> pd.DataFrame:
        """Readings of a device by time, a column a field; what is `asked` as `telemetry_query` takes it."""
        found = self.telemetry_query(device, **asked)
        rows = [_flat(row) for row in found]
        return _frame(rows).set_index("time") if rows else pd.DataFrame(index=pd.DatetimeIndex([], name="time"))

    def sql_frame(self, sql: str) -> pd.DataFrame:
        """Answer one SELECT."""
        return pd.DataFrame(self.telemetry_sql(sql=sql))


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
