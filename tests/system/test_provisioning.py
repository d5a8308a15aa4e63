"""Devices that get in by themselves, by the commands and with real clients: mosquitto, openssl, curl."""

import json
import subprocess

import pytest

from tests.system.gate import Gate
from tests.waiting import wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def gate(tmp_path):
    with Gate(tmp_path, environment={"FLEETGATE__HTTP__HTTPS_BIND": "127.0.0.1:0"}) as found:
        yield found


def openssl(*arguments: str) -> None:
    """Run openssl."""
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def new_key(gate: Gate, name: str, subject: str) -> str:
    """A key and a signing request of openssl's; the request as text."""
    key, csr = gate.out / f"{name}-key.pem", gate.out / f"{name}.csr"
    gate.out.mkdir(exist_ok=True)
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
    openssl("req", "-new", "-key", str(key), "-subj", subject, "-out", str(csr))
    return csr.read_text()


def ask(gate: Gate, name: str, topic: str, request: dict, end: str = "accepted") -> dict:
    """What mosquitto_rr gets for a request."""
    command = gate.mosquitto(name, "-q", "1", "-t", topic, "-e", f"{topic}/{end}", "-W", "10", program="mosquitto_rr")
    done = subprocess.run([*command, "-m", json.dumps(request)], capture_output=True, text=True, timeout=20, check=True)
    return json.loads(done.stdout)


def test_by_claim(gate: Gate, need, tmp_path):
    """A newcomer's way: template, claim, a device that asks with it, and what became of it."""
    need("mosquitto_rr", "mosquitto_pub", "openssl", "curl")
    gate.run("group", "set", "new")
    template = tmp_path / "boards.yaml"
    template.write_text(
        'device: board-${parameters.serial}\nparameters: {serial: {pattern: "[0-9]{4}"}}\n'
        'groups: [new]\nenrolment: {list: boards, serial: "${parameters.serial}"}\n'
    )
    gate.run("template", "set", "boards", str(template))
    boards = tmp_path / "boards.csv"
    boards.write_text("value,site,groups,attributes.row\n0001,hall-7,new,3\n0002,,,\n")
    assert "2 devices, 0 have come" in gate.run("enrolment", "set", "boards", str(boards)).stderr
    gate.run(
        "claim", "add", "factory", "--template", "boards", "--out", str(gate.out), "--max-uses", "2", "--days", "30"
    )
    csr = new_key(gate, "board-0001", "/CN=whoever")
    answer = ask(gate, "factory", "provision/boards", {"csr": csr, "parameters": {"serial": "0001"}})
    (gate.out / "board-0001.pem").write_text(answer["certificate"])
    assert gate.publish("board-0001", "devices/board-0001/telemetry", '{"v": 1}').returncode == 0
    gate.wait_for("fleetgate_messages_stored_total", 1)
    shown = gate.json("device", "show", "board-0001")
    assert (shown["site"], shown["groups"], shown["attributes"], shown["state"]) == (
        "hall-7",
        ["new"],
        {"row": "3"},
        "active",
    )
    refused = ask(gate, "factory", "provision/boards", {"parameters": {"serial": "0009"}}, "rejected")
    assert refused["code"] == "not_enrolled"
    url = f"https://{gate.addresses['https']}/device/v1"
    files = ["--cacert", str(gate.out / "ca.pem"), "--cert", str(gate.out / "factory.pem")]
    files += ["--key", str(gate.out / "factory-key.pem")]
    body = json.dumps({"parameters": {"serial": "0002"}})
    done = subprocess.run(
        ["curl", "-s", *files, f"{url}/provision/boards", "-d", body], capture_output=True, check=True
    )
    assert json.loads(done.stdout)["device"] == "board-0002"
    assert ask(gate, "factory", "provision/boards", {}, "rejected")["code"] == "claim_exhausted"
    uses = gate.json("claim", "uses", "factory")
    assert [(one["outcome"], one["code"], one["device"]) for one in uses] == [
        ("rejected", "claim_exhausted", ""), ("accepted", "", "board-0002"),
        ("rejected", "not_enrolled", ""), ("accepted", "", "board-0001"),
    ]  # fmt: skip
    gate.stop()
    (claim,) = gate.json("claim", "list")
    assert (claim["state"], claim["uses"], claim["max_uses"]) == ("active", 2, 2)
    assert [one["device"] for one in gate.json("enrolment", "show", "boards")] == ["board-0001", "board-0002"]
    assert gate.json("claim", "revoke", "factory")["state"] == "revoked"
    gate.run("claim", "delete", "factory")
    gate.run("enrolment", "delete", "boards")
    gate.run("template", "delete", "boards")
    assert gate.json("template", "list") == gate.json("claim", "list") == gate.json("enrolment", "list") == []
    assert len(gate.json("provision", "log")) == 4


def test_just_in_time_and_renewal(gate: Gate, need, tmp_path):
    """Devices of a vendor wait for somebody, or are let in; one renews its certificate, the old one is revoked."""
    need("mosquitto_rr", "mosquitto_pub", "mosquitto_sub", "openssl")
    gate.run("device", "add", "first", "--out", str(gate.out))
    ca, ca_key = tmp_path / "ca.pem", tmp_path / "ca.key"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(ca_key))
    openssl("req", "-x509", "-new", "-key", str(ca_key), "-subj", "/CN=vendor", "-days", "100", "-out", str(ca))
    for name in ("v-1", "v-2"):
        new_key(gate, name, f"/O=acme/CN={name}")
        openssl(
            "x509", "-req", "-in", str(gate.out / f"{name}.csr"), "-CA", str(ca), "-CAkey", str(ca_key),
            "-CAcreateserial", "-days", "10", "-out", str(gate.out / f"{name}.pem"),
        )  # fmt: skip
    template = tmp_path / "vendor.json"
    template.write_text(json.dumps({"attributes": {"maker": "${certificate.subject.o}"}}))
    gate.run("template", "set", "vendor", str(template))
    options = ("--template", "vendor", "--identity", "subject_cn")
    gate.run("authority", "set", "vendor", str(ca), "--mode", "pending", *options)
    verdict = gate.json("provision", "check", str(gate.out / "v-1.pem"))
    assert (verdict["decision"], verdict["reason"]) == ("deny", "pending")
    assert gate.publish("v-1", "devices/v-1/telemetry", "{}").returncode != 0
    (waits,) = gate.json("provision", "pending")
    assert waits["device"] == "v-1"
    gate.run("certificate", "activate", waits["fingerprint"])
    assert gate.publish("v-1", "devices/v-1/telemetry", "{}").returncode == 0
    gate.run("authority", "set", "vendor", str(ca), "--mode", "active", *options)
    assert gate.json("provision", "check", str(gate.out / "v-2.pem"))["decision"] == "allow"
    assert gate.publish("v-2", "devices/v-2/telemetry", "{}").returncode == 0
    assert gate.json("device", "show", "v-2")["attributes"] == {"maker": "acme"}
    csr = new_key(gate, "renewed", "/CN=whoever")
    answer = ask(gate, "first", "devices/first/certificate/renew", {"csr": csr})
    with gate.listening("first", "devices/first/#"):
        (gate.out / "first.pem").write_text(answer["certificate"])
        (gate.out / "renewed-key.pem").rename(gate.out / "first-key.pem")
        old, new = gate.json("certificate", "list", "first")
        assert (old["status"], new["status"]) == ("active", "active")
        gate.run("certificate", "revoke", old["fingerprint"])
        wait_until(lambda: json.loads(gate.get("/api/v1/connections"))["items"] == [])
    assert gate.publish("first", "devices/first/telemetry", "{}").returncode == 0
    gate.run("authority", "delete", "vendor")
    assert gate.publish("v-2", "devices/v-2/telemetry", "{}").returncode != 0
    assert gate.json("authority", "list") == []


def test_bad_input_is_one_clear_line(gate: Gate, tmp_path):
    """With the place, a non-zero exit, and nothing half done."""
    bad, twice, columns, leaf = (tmp_path / name for name in ("bad.yaml", "twice.csv", "columns.csv", "leaf.pem"))
    bad.write_text("device: ${parameters.x}\n")
    twice.write_text("value\na\na\n")
    columns.write_text("serial\na\n")
    gate.add("p1")
    leaf.write_text((gate.out / "p1.pem").read_text())
    for command, problem in (
        (("template", "set", "t", str(bad)), "device: no variable named 'parameters.x'"),
        (("enrolment", "set", "l", str(twice)), "twice.csv: line 3: value is there twice"),
        (("enrolment", "set", "l", str(columns)), "columns.csv: line 1: no column named value"),
        (("enrolment", "show", "l"), "no enrolment list named 'l'"),
        (("claim", "add", "c", "--template", "none", "--out", str(tmp_path / "c")), "no template named 'none'"),
        (("claim", "show", "c"), "no claim named 'c'"),
        (("authority", "set", "a", str(leaf)), "it has CA:FALSE"),
        (("authority", "set", "a", str(bad)), "not a readable PEM certificate"),
        (("template", "show", "t"), "no template named 't'"),
    ):
        done = gate.run(*command, check=False)
        assert (done.returncode, done.stdout) == (1, ""), command
        assert problem in done.stderr, (command, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
    assert gate.json("template", "list") == gate.json("claim", "list") == gate.json("authority", "list") == []
