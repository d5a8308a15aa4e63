"""The client: the generated methods, and those that show the fleet as pandas DataFrames (extra `notebook`)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fleet.state import StateFolder
from fleetgate.client.operations import DeviceView, Operations

if TYPE_CHECKING:
    import pandas as pd

_PAGE = 200

# Imports are inside of the functions because pandas is of an optional extra.


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

    def fleet(self, query: str = "") -> "pd.DataFrame":
        """The fleet, or what a query finds: a row a device, named by it; a column an attribute, `attributes.fw`."""
        from fleetgate.client import frames

        return frames.by_name(self.devices(query))

    def telemetry(self, device: str, **asked: Any) -> "pd.DataFrame":
        """Readings of a device by time, a column a field; what is `asked` as `telemetry_query` takes it."""
        from fleetgate.client import frames

        return frames.by_time(self.telemetry_query(device, **asked))

    def sql_frame(self, sql: str) -> "pd.DataFrame":
        """Answer one SELECT."""
        from fleetgate.client import frames

        return frames.table(self.telemetry_sql(sql=sql))
