"""The fleet by its commands, with a real client: what is known, queries, groups, types, the life of a device."""

import json
import re
import shutil
import subprocess
import urllib.request
import zipfile
from urllib.parse import urlencode

import pytest
from cryptography import x509

from tests.system.gate import Gate
from tests.waiting import wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def gate(tmp_path):
    with Gate(tmp_path) as found:
        yield found


def names(gate: Gate, query: str) -> list[str]:
    """Devices that a query finds, by the API of a gate that serves."""
    found = json.loads(gate.get("/api/v1/devices?" + urlencode({"query": query})))
    return [item["name"] for item in found["items"]]


def test_a_fleet_by_its_commands(gate: Gate):
    """Types, devices, groups and queries; every one with its --json, with a server and without."""
    gate.run("type", "set", "pump", "--require", "fw=string", "--messages-per-minute", "6")
    failed = gate.run("device", "add", "p1", "--type", "pump", "--out", str(gate.out), check=False)
    assert failed.returncode != 0
    assert failed.stderr == "fleetgate: attributes.fw: type pump requires it, a string\n"
    known = ("--type", "pump", "--site", "hall-7", "--display-name", "Pump One", "--tag", "lab", "--tag", "old")
    gate.run(
        "device", "add", "p1", *known, "--attribute", "fw=1.3.9", "--attribute", "floor:=3", "--out", str(gate.out)
    )
    gate.run("device", "add", "p2", "--type", "pump", "--attribute", "fw=1.10.0", "--out", str(gate.out))
    gate.run("device", "add", "v1", "--out", str(gate.out))
    query = 'type:pump AND attributes.fw<"1.4.0" AND connected:false AND NOT tag:new'
    assert [item["name"] for item in gate.json("device", "list", "--query", query)] == ["p1"]
    shown = gate.json("device", "show", "p1")
    assert (shown["attributes"], shown["tags"], shown["version"]) == ({"fw": "1.3.9", "floor": 3}, ["lab", "old"], 1)
    changed = gate.json("device", "set", "p1", "--attribute", "fw=1.4.0", "--without", "floor", "--tag", "new")
    assert (changed["attributes"], changed["tags"], changed["version"]) == ({"fw": "1.4.0"}, ["new"], 2)
    stale = gate.run("device", "set", "p1", "--no-tags", "--if-version", "1", check=False)
    assert (stale.returncode, "version 2 by now" in stale.stderr) == (1, True)
    gate.stop()
    assert gate.json("device", "count", "--by", "type") == [
        {"value": "pump", "count": 2},
        {"value": "", "count": 1},
    ]
    assert gate.run("device", "count", "--query", "tag:new").stdout == "1\n"
    gate.run("group", "set", "all")
    gate.run("group", "set", "pumps", "--query", "type:pump", "--parent", "all")
    gate.run("group", "add", "all", "v1")
    assert gate.json("group", "show", "all")["devices"] == 3
    assert gate.json("device", "count", "--query", "group:all AND NOT group:pumps")[0]["count"] == 1
    assert gate.json("group", "remove", "all", "v1")["devices"] == 2
    gate.run("group", "delete", "pumps")
    assert [item["name"] for item in gate.json("group", "list")] == ["all"]
    assert gate.json("type", "list")[0]["required"] == {"fw": "string"}
    assert gate.json("type", "show", "pump")["messages_per_minute"] == 6.0
    assert "hall-7" in gate.run("device", "list").stdout


def test_many_devices_at_once(gate: Gate):
    """What a query finds: first which these are, then what is known about them, then their state."""
    for name in ("p1", "p2", "v1"):
        gate.add(name)
    assert gate.run("device", "bulk", "set", "--query", "name:p*", "--site", "hall-7", "--dry-run").stdout == "p1\np2\n"
    assert gate.json("device", "list", "--query", "site:hall-7") == []
    done = gate.json("device", "bulk", "set", "--query", "name:p*", "--site", "hall-7", "--attribute", "floor:=3")
    assert (done["done"], done["failed"]) == (2, [])
    gate.run("device", "bulk", "set", "--query", "name:p1", "--without", "floor", "--tag", "lab")
    found = [
        (item["name"], item["attributes"], item["tags"])
        for item in gate.json("device", "list", "--query", "site:hall-7")
    ]
    assert found == [("p1", {}, ["lab"]), ("p2", {"floor": 3}, [])]
    assert "2 of 2" in gate.run("device", "bulk", "disable", "--query", "site:hall-7").stderr
    assert {item["name"]: item["state"] for item in gate.json("device", "list")} == {
        "p1": "suspended",
        "p2": "suspended",
        "v1": "registered",
    }
    assert len(gate.json("audit", "list", "--device", "p1")) == 4


BAD = {
    ("device", "list", "--query", "type:a tag:b"): "query, column 8: expected AND, OR or the end, not 'tag:b'",
    ("device", "count", "--by", "colour"): "devices are counted by type, site",
    ("device", "set", "p1", "--attribute", "fw"): "--attribute: 'fw' is neither KEY=TEXT nor KEY:=JSON",
    ("device", "set", "p1", "--attribute", "n:=three"): "'three' is not JSON",
    ("device", "set", "p1", "--tag", "a b"): "tags: 'a b' is not",
    ("device", "bulk", "set", "--query", ""): "belongs to set",
    ("device", "bulk", "disable", "--query", "", "--tag", "a"): "belongs to set",
    ("type", "set", "x", "--require", "fw=text"): "required.fw",
    ("group", "set", "g", "--query", "group:g"): "would contain itself",
}


def test_bad_input_is_one_clear_line(gate: Gate):
    """With the place, a non-zero exit, and nothing half done."""
    gate.add("p1")
    before = gate.json("device", "show", "p1")
    for command, problem in BAD.items():
        done = gate.run(*command, check=False)
        assert done.returncode != 0, command
        assert problem in done.stderr, (command, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""
    assert gate.json("device", "show", "p1") == before


def test_a_device_lives(gate: Gate, need):
    """Registered; active once it was connected; suspended and retired end its connection, and refuse the next.

    With a retired one its certificates, its session, and what it has sent, where that is wanted, are gone.
    """
    need("mosquitto_sub", "mosquitto_pub")
    gate.add("p1")
    assert gate.json("device", "show", "p1")["state"] == "registered"
    listening = gate.mosquitto("p1", "-t", "devices/p1/commands/#", program="mosquitto_sub")
    client = subprocess.Popen(listening, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: names(gate, "connected:true AND state:active") == ["p1"])
        gate.run("device", "disable", "p1")
        wait_until(lambda: json.loads(gate.get("/api/v1/connections"))["items"] == [])
        assert gate.publish("p1", "devices/p1/telemetry", "{}").returncode != 0
        gate.run("device", "enable", "p1")
        assert gate.publish("p1", "devices/p1/telemetry", '{"v": 1}').returncode == 0
        client.kill()
        client.wait()
        keeping = ("-c", "-q", "1", "-E", "-t", "devices/p1/commands/#")
        subprocess.run(gate.mosquitto("p1", *keeping, program="mosquitto_sub"), check=True)
        assert gate.total("fleetgate_sessions") == 1
        gate.run("device", "retire", "p1", "--purge")
        assert gate.total("fleetgate_sessions") == 0
        assert [entry["status"] for entry in gate.json("device", "show", "p1")["certificates"]] == ["revoked"]
        assert gate.json("query", "p1") == []
        assert gate.publish("p1", "devices/p1/telemetry", "{}").returncode != 0
        assert gate.run("device", "enable", "p1", check=False).stderr.endswith("it can't become active\n")
    finally:
        client.kill()
        client.wait()
    assert gate.total("fleetgate_connects_total", outcome="refused", reason="retired") >= 1
    gate.stop()
    gate.start()
    assert names(gate, "state:retired AND last_seen>now-1h") == ["p1"], "when it was seen is remembered"


def test_a_list_is_imported(gate: Gate, tmp_path):
    """All or none, tried first; the report names each bad row, and the exit code says that there is one."""
    file = tmp_path / "list.csv"
    file.write_text("name,site,attributes.fw\np1,hall,1.0\np2,ha ll,1.1\np1,hall,1.0\n")
    done = gate.run("device", "import", str(file), "--json", check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["rows"], report["added"]) == (1, 3, 0)
    assert [row["line"] for row in report["bad"]] == [3, 4]
    assert names(gate, "") == []
    table = gate.run("device", "import", str(file), "--skip-bad", "--dry-run", check=False)
    assert (table.returncode, "site: 'ha ll'" in table.stdout) == (1, True)
    assert "1 of 3 would be registered, 2 bad" in table.stderr
    file.write_text("name,site,attributes.fw\np1,hall,1.0\np2,hall,1.1\n")
    assert json.loads(gate.run("device", "import", str(file), "--json").stdout)["added"] == 2
    gate.stop()
    lines = tmp_path / "list.ndjson"
    lines.write_text('{"name": "p3", "tags": ["new"]}\n')
    assert "1 of 1 registered, 0 bad" in gate.run("device", "import", str(lines)).stderr
    assert gate.run("device", "count", "--query", "site:hall OR tag:new").stdout == "3\n"
    failed = gate.run("device", "import", str(tmp_path / "list.txt"), check=False)
    assert (failed.returncode, "ends with none of" in failed.stderr) == (1, True)


@pytest.mark.parametrize("out", ["made", "made.zip"])
def test_a_list_gets_its_certificates(gate: Gate, need, tmp_path, out: str):
    """A folder a device, or a ZIP of them; each device is let in with what is in its own."""
    need("mosquitto_pub")
    file = tmp_path / "list.csv"
    file.write_text("name,site\np1,hall\np2,ha ll\n")
    failed = gate.run("device", "import", str(file), "--out", str(tmp_path / out), "--json", check=False)
    assert (failed.returncode, json.loads(failed.stdout)["bad"][0]["line"]) == (1, 3)
    assert not (tmp_path / out).exists()
    file.write_text("name,site\np1,hall\np2,hall\n")
    done = gate.run("device", "import", str(file), "--out", str(tmp_path / out), "--json")
    assert json.loads(done.stdout)["added"] == 2
    made = tmp_path / out
    if out.endswith(".zip"):
        assert made.stat().st_mode & 0o777 == 0o600
        made = tmp_path / "unpacked"
        with zipfile.ZipFile(tmp_path / out) as archive:
            archive.extractall(made)
    else:
        assert (made / "p1" / "p1-key.pem").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (made / "p2").iterdir()) == ["ca.pem", "p2-key.pem", "p2.pem"]
    for name in ("p1", "p2"):
        (made / name).rename(gate.out)
        assert gate.publish(name, f"devices/{name}/telemetry", '{"v": 1}').returncode == 0
        gate.out.rename(made / name)
    again = gate.run("device", "import", str(file), "--out", str(tmp_path / out), check=False)
    assert "not written over" in again.stderr


def test_a_certificate_is_exchanged(gate: Gate, need, tmp_path):
    """Both are let in for a while; the socket of the old one closes when that is revoked."""
    need("mosquitto_sub", "mosquitto_pub")
    gate.add("p1")
    (old,) = gate.json("certificate", "list", "p1")
    topics = ("-t", "devices/p1/commands/#")
    client = subprocess.Popen(gate.mosquitto("p1", *topics, program="mosquitto_sub"), stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: names(gate, "connected:true") == ["p1"])
        kept = tmp_path / "old"
        gate.out.rename(kept)
        new = gate.run("certificate", "add", "p1", "--out", str(gate.out), "--pending", "--json")
        new = json.loads(new.stdout)
        assert new["status"] == "pending"
        assert gate.publish("p1", "devices/p1/telemetry", '{"v": 0}').returncode != 0
        assert gate.total("fleetgate_connects_total", outcome="refused", reason="pending") >= 1
        gate.run("certificate", "activate", new["fingerprint"])
        assert [entry["status"] for entry in gate.json("certificate", "list", "p1")] == ["active", "active"]
        assert json.loads(gate.get("/api/v1/connections"))["items"] != []
        gate.run("certificate", "revoke", ":".join(re.findall("..", old["fingerprint"].upper())))
        wait_until(lambda: json.loads(gate.get("/api/v1/connections"))["items"] == [], seconds=2)
    finally:
        client.kill()
        client.wait()
    assert gate.publish("p1", "devices/p1/telemetry", '{"v": 1}').returncode == 0
    third = gate.run("certificate", "add", "p1", "--out", str(tmp_path / "third"))
    assert "active certificate" in third.stderr
    fourth = gate.run("certificate", "add", "p1", "--out", str(tmp_path / "fourth"), check=False)
    assert "2 active certificates already" in fourth.stderr
    gate.run("certificate", "deactivate", new["fingerprint"])
    assert gate.publish("p1", "devices/p1/telemetry", '{"v": 2}').returncode != 0
    assert [row["fields"]["v"] for row in gate.json("query", "p1")] == [1]
    for command, problem in (
        (("activate", old["fingerprint"]), "is revoked: it can't become active"),
        (("revoke", "12"), "fingerprint"),
        (("add", "p1"), "exactly one of"),
        (("add", "p1", "--certificate", str(kept / "ca.pem")), "would be refused"),
    ):
        failed = gate.run("certificate", *command, check=False)
        assert (failed.returncode, failed.stderr.count("\n")) == (1, 1), failed.stderr
        assert problem in failed.stderr


def test_what_would_happen_to_a_certificate(gate: Gate, tmp_path):
    """Rule by rule, as at the connect itself."""
    gate.add("p1")
    file = str(gate.out / "p1.pem")
    found = gate.json("provision", "check", file)
    assert (found["decision"], found["reason"]) == ("allow", None)
    assert [step["rule"] for step in found["steps"]] == ["issuer", "identity", "revocation list", "registered"]
    gate.run("device", "disable", "p1")
    done = gate.run("provision", "check", file)
    assert "it would be refused: disabled" in done.stderr
    assert "p1 is disabled" in done.stdout
    gate.stop()
    other = Gate(tmp_path / "other")
    other.add("p1")
    assert gate.json("provision", "check", str(other.out / "p1.pem"))["reason"] == "unknown_ca"
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    failed = gate.run("provision", "check", str(bad), check=False)
    assert (failed.returncode, "not a readable PEM certificate" in failed.stderr) == (1, True)


def test_another_gate_goes_by_our_revocation_list(gate: Gate, need, tmp_path):
    """What is published here is taken there: a revoked certificate is refused, another one is not."""
    need("mosquitto_pub")
    for name in ("p1", "p2"):
        gate.add(name)
    ca, crl = tmp_path / "their-ca.pem", tmp_path / "their-crl.pem"
    ca.write_text(gate.get("/pki/ca.pem", token=False))
    crl.write_text(gate.get("/pki/ca-crl.pem", token=False))
    assert crl.read_text().count("BEGIN X509 CRL") == 2  # the root's, too
    settings = {"FLEETGATE__TLS__CLIENT_CA": str(ca), "FLEETGATE__TLS__CRL": str(crl)}
    with Gate(tmp_path / "other", environment=settings) as other:
        other.out.mkdir()
        shutil.copy(other.state / "pki" / "ca.pem", other.out / "ca.pem")
        for name in ("p1", "p2"):
            certificate = gate.out / f"{name}.pem"
            other.run("device", "add", name, "--certificate", str(certificate))
            shutil.copy(certificate, other.out)
            shutil.copy(gate.out / f"{name}-key.pem", other.out)
        assert other.publish("p1", "devices/p1/telemetry", '{"v": 1}').returncode == 0
        gate.run("device", "revoke", "p1")
        crl.write_text(gate.get("/pki/ca-crl.pem", token=False))
        with urllib.request.urlopen(f"http://{gate.addresses['http']}/pki/ca.crl", timeout=10) as answer:
            assert answer.headers["Content-Type"] == "application/pkix-crl"
            assert len(list(x509.load_der_x509_crl(answer.read()))) == 1
        wait_until(lambda: other.json("provision", "check", str(gate.out / "p1.pem"))["reason"] == "revoked")
        assert other.publish("p2", "devices/p2/telemetry", '{"v": 1}').returncode == 0
        assert other.publish("p1", "devices/p1/telemetry", '{"v": 1}').returncode != 0
        assert other.total("fleetgate_connects_total", outcome="refused", reason="revoked") >= 1
