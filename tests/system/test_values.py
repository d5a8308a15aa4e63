"""Values as they were sent, through the real program: none lost, none made of two, none taken for another."""

import base64
import gzip
import json
from pathlib import Path

from tests.ingester.test_protobuf import DESCRIBED, ZEROS
from tests.system.gate import Gate

DEFINITIONS = {
    "words": {"codec": "text"},
    "zeros": {"codec": "protobuf", "message": "p.Three", "descriptor": base64.b64encode(DESCRIBED).decode()},
    "lines": {"codec": "line"},
    "packed": {"codec": ["gzip", "json"]},
    "status": {"time": "StatusSNS.Time"},
}
SENT = [
    ("words", b"12e45678"),
    ("words", b"0004512345"),
    ("zeros", b""),
    ("lines", b'pipe,size=1/2" flow=3.5\npipe,size=3/4" flow=4.5'),
    ("packed", gzip.compress(b'[{"v":1},') + gzip.compress(b'{"v":2}]')),
    ("status", b'{"StatusSNS":{"Time":"2021-01-31T19:56:51Z","v":1}}'),
    ("plain", b'{"ts":"1612123011030","v":1}'),
    ("plain", b'{"a.b":1,"a":{"b":2}}'),
    ("plain", b'{"ts":"20210131T195651Z","v":1}'),
]


async def test_values_arrive_as_they_were_sent(gate: Gate, tmp_path: Path):
    """By one device in many formats; what would lose a value is in quarantine with its reason."""
    for name, given in DEFINITIONS.items():
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"filter": f"devices/{{device}}/telemetry/{name}", **given}))
        gate.run("stream", "set", name, str(file))
    useless = tmp_path / "useless.json"
    useless.write_text(json.dumps({"filter": "x/{device}", "layout": "u8 a"}))
    refused = gate.run("stream", "set", "useless", str(useless), check=False)
    assert refused.returncode != 0
    assert "layout: only codec binary reads it" in refused.stderr
    gate.add("d")
    async with gate.client("d") as client:
        for stream, payload in SENT:
            await client.publish(f"devices/d/telemetry/{stream}", payload, qos=1)
    found: dict[str, list] = {}
    for row in gate.json("query", "d"):
        found.setdefault(row["stream"], []).append(row["fields"])
    assert found == {
        "words": [{"value": "12e45678"}, {"value": "0004512345"}],
        "zeros": [ZEROS],
        "lines": [{"pipe.size": '1/2"', "pipe.flow": 3.5}, {"pipe.size": '3/4"', "pipe.flow": 4.5}],
        "packed": [{"v": 1}, {"v": 2}],
        "status": [{"StatusSNS.v": 1}],
        "plain": [{"v": 1}],
    }
    times = {row["stream"]: row["time"] for row in gate.json("query", "d")}
    assert times["plain"] == "2021-01-31T19:56:51.030000Z"
    assert times["status"] == "2021-01-31T19:56:51Z"
    assert [item["reason"] for item in gate.json("quarantine", "list")] == ["duplicate_key", "timestamp"]
