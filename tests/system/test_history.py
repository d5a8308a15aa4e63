"""The history as operators meet it: sealed, asked in SQL, read by other tools, scrubbed, named when it is damaged."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from tests.system.gate import FLEETGATE, Gate
from tests.waiting import wait_until


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


def test_exported(tmp_path: Path):
    """A file a day; with a watermark each reading once, over runs that were stopped, and later ones from before."""
    gate, out = Gate(tmp_path), tmp_path / "files"
    with gate:
        gate.add("d1")

        def send(*payloads: str) -> None:
            for payload in payloads:
                subprocess.run(
                    gate.mosquitto("d1", "-t", "devices/d1/telemetry", "-q", "1", "-m", payload), check=True, timeout=20
                )

        def exported(*arguments: str) -> list[tuple[str, int]]:
            found = gate.json("export", "--out", str(out), *arguments)
            return [(Path(one["file"]).name, one["rows"]) for one in found]

        def settled() -> bool:
            last = max(row["received"] for row in gate.json("query", "d1"))
            return last <= json.loads(gate.get("/api/v1/telemetry/settled"))["until"]

        send('{"ts": "2026-11-20T05:00:00Z", "v": 1}', '{"ts": "2026-11-21T05:00:00Z", "v": 2}')
        wait_until(settled)
        mark = ("--watermark", str(tmp_path / "mark"), "--format", "csv")
        first = exported(*mark)
        assert first == [
            ("default-2026-11-20-after-19700101T000000Z.csv", 1),
            ("default-2026-11-21-after-19700101T000000Z.csv", 1),
        ]
        assert exported(*mark) == []
        kept = (tmp_path / "mark").read_text()
        send('{"ts": "2026-11-20T06:00:00Z", "v": 3}')
        wait_until(settled)
        second = exported(*mark)
        assert [rows for _, rows in second] == [1]
        (tmp_path / "mark").write_text(kept)  # as if it had been stopped before its end
        send('{"ts": "2026-11-20T07:00:00Z", "v": 4}')
        wait_until(settled)
        assert exported(*mark) == [(second[0][0], 2)]
        gate.json("store", "seal")
        assert exported() == [("default-2026-11-20.parquet", 3), ("default-2026-11-21.parquet", 1)]
        assert exported("--from", "2026-11-20T06:00:00Z", "--to", "2026-11-20T23:00:00Z", "--format", "json") == [
            ("default-2026-11-20.json", 2)
        ]
        bad = gate.run("export", "--out", str(out), "--stream", "nope", check=False)
        assert bad.returncode == 1
        assert "nope" in bad.stderr
        (tmp_path / "mark").write_text("soon")
        bad = gate.run("export", "--out", str(out), *mark, check=False)
        assert (bad.returncode, "soon" in bad.stderr) == (1, True)
        (tmp_path / "d.json").write_text('{"sql": "SELECT count(*) AS n FROM messages", "format": "json"}')
        gate.run("dataset", "set", "all", str(tmp_path / "d.json"))
        wait_until(lambda: gate.json("dataset", "results", "all"))
        assert json.loads(gate.run("dataset", "get", "all").stdout) == [{"n": 4}]
        assert gate.json("dataset", "run", "all")["number"] == 2
        bad = gate.run("dataset", "set", "bad", str(tmp_path / "mark"), check=False)
        assert (bad.returncode, bad.stderr) == (1, "fleetgate: dataset: an object is wanted\n")
        gate.run("dataset", "delete", "all")
        assert gate.json("dataset", "list") == []
    values = [
        row["v"] for path in sorted(out.glob("*-after-*")) for row in csv.DictReader(path.read_text().splitlines())
    ]
    assert sorted(values) == ["1", "2", "3", "4"]
    assert duckdb.sql(f"SELECT v FROM '{out}/*.parquet' ORDER BY v").fetchall() == [(1,), (2,), (3,), (4,)]
    assert "Traceback" not in gate.errors(), gate.errors()
