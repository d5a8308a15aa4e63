"""Policies by their commands, with a real client: refused, explained, allowed by a change that reaches it at once."""

import json

import pytest

from tests.system.gate import Gate
from tests.waiting import wait_until

pytestmark = pytest.mark.system

SHARED = """
- name: halls
  allow: publish
  to: hall/${device.attributes.hall}/log
"""


@pytest.fixture
def gate(tmp_path):
    with Gate(tmp_path) as found:
        yield found


def explained(gate: Gate, *asked: str) -> tuple[str, str, str | None, str | None]:
    """Decision, reason, policy and statement."""
    found = gate.json("explain", "--device", "p1", *asked)
    assert list(found) == ["decision", "reason", "policy", "version", "statement"]
    return found["decision"], found["reason"], found["policy"], found["statement"]


def test_refused_explained_allowed(gate: Gate, need, tmp_path):
    """A newcomer's way: the device is refused, explain says why, a policy lets it; with a server and without."""
    need("mosquitto_pub")
    gate.add("p1")
    topic = "hall/7/log"
    assert gate.publish("p1", topic, "{}").returncode == 0, "3.1.1 has no word for it"
    gate.wait_for("fleetgate_messages_rejected_total", 1, reason="not_authorized")
    assert explained(gate, "--publish", topic) == ("deny", "not_allowed", None, None)
    (past,) = gate.json("explain", "--device", "p1", "--past")
    assert (past["action"], past["resource"], past["reason"], past["times"]) == ("publish", topic, "not_allowed", 1)
    document = tmp_path / "halls.yaml"
    document.write_text(SHARED)
    gate.run("policy", "set", "halls", str(document), "--description", "logs of halls")
    assert gate.json("policy", "simulate", "halls", str(document), "--all") == [], "the attribute is missing"
    gate.run("device", "set", "p1", "--attribute", "hall=7")
    (change,) = gate.json("policy", "simulate", "halls", str(document), "--all")
    assert (change["was"]["decision"], change["would_be"]["decision"]) == ("deny", "allow")
    assert "1 of 2 decisions" in gate.run("policy", "simulate", "halls", str(document), "--all").stderr
    gate.run("policy", "attach", "halls", "--all")
    assert explained(gate, "--publish", topic) == ("allow", "allowed", "halls", "halls")
    assert gate.publish("p1", topic, "{}").returncode == 0
    gate.wait_for("fleetgate_messages_routed_total", 1)
    gate.stop()
    assert (
        "allow, allowed by 'halls' of policy halls, version 1"
        in gate.run("explain", "--device", "p1", "--publish", topic).stdout
    )
    assert gate.json("explain", "--device", "p1", "--past")[0]["resource"] == topic
    assert [one["name"] for one in gate.json("policy", "list")] == ["default", "halls"]
    gate.run("policy", "set", "halls", str(document), "--no-default")
    assert gate.json("policy", "show", "halls", "--version", "2")["default"] is False
    gate.run("policy", "default", "halls", "2")
    gate.run("policy", "delete", "halls", "--version", "1")
    gate.run("policy", "detach", "halls", "--all")
    gate.run("policy", "delete", "halls")
    assert "default" in gate.run("policy", "list").stdout


def test_a_connection_ends_with_its_policy(gate: Gate, need, tmp_path):
    """Within a second, by the command; the next connect is refused, and the reason is kept."""
    need("mosquitto_sub", "mosquitto_pub")
    gate.add("p1")
    document = tmp_path / "closed.json"
    statement = {"Sid": "closed", "Effect": "Deny", "Action": "connect", "Resource": "*"}
    document.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    gate.run("policy", "set", "closed", str(document))
    with gate.listening("p1", "devices/p1/#"):
        gate.run("policy", "attach", "closed", "--device", "p1")
        wait_until(lambda: json.loads(gate.get("/api/v1/connections"))["items"] == [])
    assert gate.publish("p1", "devices/p1/telemetry", "{}").returncode != 0
    assert explained(gate, "--connect") == ("deny", "explicit_deny", "closed", "closed")
    assert gate.total("fleetgate_connects_total", outcome="refused", reason="policy") >= 1
    assert gate.json("explain", "--device", "p1", "--past")[0]["statement"] == "closed"


def test_bad_input_is_one_clear_line(gate: Gate, tmp_path):
    """With the place; what can't be decided exits with 2."""
    gate.add("p1")
    bad = tmp_path / "bad.yaml"
    bad.write_text("- {allow: fly, to: a}\n")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    near = tmp_path / "near.yaml"
    near.write_text("- {allow: publish, to: near, if: {IpAddress: {source.address: 10.0.0.0/8}}}\n")
    gate.run("policy", "set", "near", str(near))
    gate.run("policy", "attach", "near", "--all")
    for command, code, problem in (
        (("policy", "set", "p", str(bad)), 1, "Statement[0].Action: no action named 'fly'"),
        (("policy", "set", "p", str(binary)), 1, "binary: not UTF-8"),
        (("policy", "set", "p", str(tmp_path / "none")), 1, "No such file"),
        (("policy", "attach", "near"), 1, "give exactly one of --device"),
        (("policy", "attach", "none", "--all"), 1, "no policy named 'none'"),
        (("explain", "--device", "p1"), 2, "give exactly one of --publish"),
        (("explain", "--device", "none", "--connect"), 2, "no device named 'none'"),
        (("explain", "--device", "p1", "--publish", "near"), 2, "it depends on source.address, which is not known"),
        (("explain", "--device", "p1", "--publish", "a/#"), 2, "a topic name has no + and no #"),
    ):
        done = gate.run(*command, check=False)
        assert (done.returncode, done.stdout) == (code, ""), command
        assert problem in done.stderr, (command, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
    assert explained(gate, "--publish", "near", "--source-address", "10.1.2.3")[0] == "allow"
