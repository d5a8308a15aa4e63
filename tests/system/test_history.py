"""The history as operators meet it: sealed, asked in SQL, read by other tools, scrubbed, named when it is damaged."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from tests.system.gate import FLEETGATE, Gate


def test_sealed_and_asked(gate: Gate, tmp_path: Path):
    """A simulated fleet, sealed; SQL, any Parquet tool and `query` agree, while the server runs and after."""
    subprocess.run(
        [*FLEETGATE, "simulate", "--state", str(gate.state), "--devices", "3", "--rate", "100", "--duration", "3"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    stored = int(gate.total("fleetgate_messages_stored_total"))
    assert stored >= 250
    assert gate.json("store", "seal")["sealed"] == stored
    shown = gate.json("store", "show")
    assert (shown["messages"], shown["rows"]) == (stored, stored)
    assert gate.json("sql", "SELECT count(*) AS n FROM messages") == [{"n": stored}]
    folder = gate.state / "telemetry" / "history" / "stream=default"
    mean = "SELECT device, round(avg(temperature), 6) AS t, count(*) AS n FROM {} GROUP BY device ORDER BY device"
    asked = gate.json("sql", mean.format('"default"'))
    files = f"read_parquet('{folder}/*/*.parquet')"
    assert [tuple(row.values()) for row in asked] == duckdb.sql(mean.format(files)).fetchall()
    assert sum(pq.read_metadata(path).num_rows for path in folder.rglob("*.parquet")) == stored
    device = asked[0]["device"]
    queried = gate.json("query", device, "--from", "-1h")
    assert len(queried) == asked[0]["n"]
    buckets = gate.json("query", device, "--from", "-1h", "--field", "temperature", "--bucket", "1h")
    assert sum(bucket["count"] for bucket in buckets) == asked[0]["n"]
    mine = f"SELECT seq, temperature FROM streams.default WHERE device = '{device}'"
    csv = gate.run("sql", mine, "--format", "csv").stdout
    assert len(csv.splitlines()) == asked[0]["n"] + 1
    refused = gate.run("sql", "DELETE FROM messages", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "one SELECT is answered" in refused.stderr
    gate.stop()
    assert gate.json("query", device, "--from", "-1h") == queried
    assert gate.json("sql", "SELECT count(*) AS n FROM messages") == [{"n": stored}]
    assert gate.json("store", "scrub") == []
    path = next(folder.rglob("*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    found = gate.run("store", "scrub", "--json", check=False)
    assert found.returncode == 1
    assert json.loads(found.stdout)[0]["path"] in str(path)


def test_without_the_extra(tmp_path: Path):
    """Everything is served but what needs it, which says so; doctor does too."""
    hide = "import sys; sys.modules |= {'pyarrow': None, 'duckdb': None}; from fleetgate.cli import main; main()"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", hide, "--state", str(tmp_path / "state"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert run("init").returncode == 0
    assert "fleetgate[analytics]" in run("store", "seal").stderr
    assert "fleetgate[analytics]" in run("sql", "SELECT 1").stderr
    (found,) = [one for one in json.loads(run("doctor", "--json").stdout) if one["check"] == "history"]
    assert (found["status"], "fleetgate[analytics]" in found["detail"]) == ("warning", True)
