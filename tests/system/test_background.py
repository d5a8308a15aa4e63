"""Background work as operators meet it: what fails is seen, and what can't be sealed stops nobody."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tests.system.gate import Gate
from tests.waiting import wait_until

ROW = "INSERT INTO journal (device, stream, found_first, found_last, received_last, lengths, payloads) VALUES "


def test_sealing_that_fails_is_seen_and_goes_on(tmp_path: Path):
    """While nothing can be sealed the gate stays ready; /readyz, doctor and /metrics say what fails. Afterwards all is
    sealed but a row that can't be, which is in quarantine, also over restarts; large integers stay exact.
    """
    gate = Gate(tmp_path, environment={"FLEETGATE__HISTORY__SEAL_BYTES": "1"})
    with gate:
        gate.add("d1")
        gate.add("d2")
    received = time.time_ns() // 1000 - 3_600_000_000
    with closing(sqlite3.connect(gate.state / "telemetry" / "journal.db")) as journal, journal:
        for device, lengths, payload in (
            ("d1", None, b'{"bsEui": 8121069193333309404, "order": 18446744073709551615}'),
            ("d2", b"\1\2\3", b'{"n": 1}{"n": 2}'),
            ("d2", None, b'{"n": 3}'),
        ):
            journal.execute(f"{ROW}(?, 's', ?, ?, ?, ?, ?)", (device, received, received, received, lengths, payload))
            journal.execute("INSERT OR IGNORE INTO series VALUES (?, 's')", (device,))
    history = gate.state / "telemetry" / "history"
    history.write_text("in the way of the folder")
    with gate:
        found = wait_until(lambda: [line for line in gate.get("/readyz", token=False).splitlines() if "seal" in line])
        assert gate.get("/readyz", token=False).splitlines()[0] == "ready"
        assert found[0].startswith("failing: seal since ")
        assert "history" in found[0]
        assert gate.metrics()['fleetgate_background_failing{work="seal"}'] >= 1
        assert gate.metrics()['fleetgate_background_failures_total{work="seal"}'] >= 1
        assert gate.metrics()['fleetgate_background_failing{work="census"}'] == 0
        findings = {one["check"]: one for one in json.loads(gate.run("doctor", "--json", check=False).stdout)}
        assert findings["background seal"]["status"] in {"warning", "error"}
        assert "fails since" in findings["background seal"]["detail"]
        assert gate.total("fleetgate_sealed_messages_total") == 0
        history.unlink()
        wait_until(lambda: gate.metrics()["fleetgate_sealed_messages_total"] == 2, 30)
        wait_until(lambda: gate.get("/readyz", token=False) == "ready\n", 30)
        findings = {one["check"]: one for one in json.loads(gate.run("doctor", "--json", check=False).stdout)}
        assert findings["background"]["status"] == "ok"
        assert "1 messages could not be sealed" in findings["sealing"]["detail"]
        (item,) = gate.json("quarantine", "list")
        assert (item["device"], item["reason"]) == ("d2", "seal")
        (row,) = gate.json("query", "d1", "--from", "-2h")
        assert row["fields"] == {"bsEui": 8121069193333309404, "order": 18446744073709551615}
        assert gate.json("sql", "SELECT \"bsEui\" AS e FROM streams.s WHERE device = 'd1'") == [
            {"e": 8121069193333309404}
        ]
        assert [one["fields"] for one in gate.json("query", "d2", "--from", "-2h")] == [{"n": 3}]
    with gate:
        assert len(gate.json("quarantine", "list")) == 1
        assert gate.json("store", "show")["messages"] == 2
