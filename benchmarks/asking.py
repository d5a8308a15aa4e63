"""Asks the API of a server that holds many devices, one call after the other, from a process of its own.

    python -m benchmarks.asking STATE

prints a table of how long the answers took, its first line when it begins.
"""

import json
import sys
import time
from pathlib import Path

import httpx

from benchmarks.generator import quantiles
from fleet.state import StateFolder

ASKED = 300
QUERY = 'type:pump AND attributes.fw<"1.4.0" AND connected:true AND NOT tag:lab'
CALLS = (
    ("list 200 devices", "/devices", {"after": "dev-05000"}),
    ("show a device", "/devices/dev-050000", {}),
    ("query", "/devices", {"query": QUERY}),
)


def main() -> None:
    """List, show and query."""
    state = StateFolder(Path(sys.argv[1]))
    headers = {"Authorization": f"Bearer {state.token()}"}
    address = json.loads(state.server_file.read_text())["http"]
    print("| asked | p50 | p95 | p99 |", flush=True)
    print("|---|---|---|---|")
    with httpx.Client(base_url=f"http://{address}/api/v1", headers=headers, trust_env=False, timeout=30) as client:
        for name, path, params in CALLS:
            times = []
            for _ in range(ASKED):
                started = time.perf_counter()
                client.get(path, params=params).raise_for_status()
                times.append(time.perf_counter() - started)
            found = quantiles(sorted(times))
            print(f"| {name} | {found['p50_ms']} ms | {found['p95_ms']} ms | {found['p99_ms']} ms |")


if __name__ == "__main__":
    main()
