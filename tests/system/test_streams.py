"""Streams and quarantine as a newcomer meets them: a definition, three devices, a broken payload, its repair."""

import json
from pathlib import Path

import cbor2

from tests.ingester.test_codecs import BIRTH, sparkplug
from tests.system.gate import Gate


def test_three_formats_one_broken_payload_and_its_repair(gate: Gate, tmp_path: Path):
    """Defined by the command line, tried with `codec test`, sent with mosquitto_pub, repaired and read again."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("- {allow: publish, to: 'spBv1.0/*'}\n")
    gate.run("policy", "set", "sparkplug", str(policy))
    gate.run("policy", "attach", "sparkplug", "--all")
    definitions = {
        "radio": {
            "filter": "devices/{device}/telemetry/radio",
            "codec": "cbor",
            "fields": {"temperature": {"unit": "°C"}},
        },
        "sparkplug": {
            "filter": "spBv1.0/{group}/{message}/{node}/{unit...}",
            "codec": "sparkplug",
            "stream": "sparkplug/{unit}",
        },
    }
    for name, given in definitions.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(given))
        gate.run("stream", "set", name, str(tmp_path / f"{name}.json"))
    assert [one["name"] for one in gate.json("stream", "list")] == ["radio", "sparkplug"]
    good, bad, birth = tmp_path / "good", tmp_path / "bad", tmp_path / "birth"
    good.write_bytes(cbor2.dumps({"temperature": 21.5}))
    bad.write_bytes(cbor2.dumps({"temperature": 21.5})[:-1])
    birth.write_bytes(sparkplug(0, *BIRTH))
    tried = gate.json("codec", "test", "--topic", "devices/c/telemetry/radio", "--file", str(good))
    assert (tried[0]["definition"], tried[0]["readings"][0]["fields"]) == ("radio", {"temperature": 21.5})
    unreadable = gate.run("codec", "test", "--topic", "x", "--file", str(bad), check=False)
    assert unreadable.returncode == 1
    for name in ("j", "c", "s"):
        gate.add(name)
    gate.publish("j", "devices/j/telemetry", '{"level": 1}')
    for file in (good, bad, good):
        gate.publish("c", "devices/c/telemetry/radio", file.read_bytes())
    gate.publish("s", "spBv1.0/plant/NBIRTH/n1", birth.read_bytes())
    assert [row["fields"] for row in gate.json("query", "c")] == [{"temperature": 21.5}] * 2
    (node,) = gate.json("query", "s")
    assert (node["stream"], node["flags"]) == ("sparkplug", ["birth"])
    assert node["fields"] == {
        "temperature": 21.1, "offset": -5, "group": "plant", "message": "NBIRTH", "node": "n1",
    }  # fmt: skip
    (kept,) = gate.json("quarantine", "list")
    assert (kept["device"], kept["topic"], kept["codec"]) == ("c", "devices/c/telemetry/radio", "cbor")
    shown = gate.run("quarantine", "show", str(kept["id"])).stdout
    assert bad.read_bytes()[:16].hex(" ") in shown
    assert gate.json("quarantine", "replay", str(kept["id"]), "--payload", str(good)) == {"stored": 1, "kept": 0}
    assert len(gate.json("query", "c")) == 3
    assert gate.json("quarantine", "list") == []
    gate.check_account()
