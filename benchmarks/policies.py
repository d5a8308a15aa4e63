"""What policies cost: a decision the first time and again, and how soon a change reaches 5,000 connections."""

import json
import socket
import ssl
import time
from collections.abc import Callable

import httpx

from benchmarks.machine import describe
from benchmarks.processes import Clients, Fleet, Server, fleet, fleetgate
from fleet.policy.compiled import Attached, Caller, Compiled, Program
from fleet.policy.document import Action, read

CONNECTED = 5000
ROUNDS = 5
TOPICS = 500
_DEFAULT = {
    "Statement": [
        {"Effect": "Allow", "Action": "connect", "Resource": "${device.id}"},
        {"Effect": "Allow", "Action": ["publish", "retain"], "Resource": "devices/${device.id}/*"},
        {
            "Effect": "Allow",
            "Action": ["subscribe", "receive"],
            "Resource": ["devices/${device.id}", "devices/${device.id}/*"],
        },
    ]
}
_MANY = {
    "Statement": [
        {"Effect": ("Allow", "Deny")[n % 10 == 9], "Action": "publish", "Resource": f"site-{n}/${{device.id}}/*/value"}
        for n in range(200)
    ]
}


def main() -> None:
    """Measure all of it."""
    print(describe())
    print("| policies | compiled and first decision, µs | first decision of a further topic, µs | again, µs |")
    print("|---|---|---|---|")
    for name, documents in (
        ("default, 3 statements", [_DEFAULT]),
        ("default, and 200 statements more", [_DEFAULT, _MANY]),
    ):
        first, further, again = _decisions(documents)
        print(f"| {name} | {first:.1f} | {further:.2f} | {again:.2f} |")
    with fleet(CONNECTED) as made, fleetgate(made) as server, Clients(server, made, CONNECTED - 1, 2):
        found = [_effect(server, made) for _ in range(ROUNDS)]
        rights, ended = (min(values) * 1000 for values in zip(*found, strict=True))
        print(f"a policy attached to all, {CONNECTED:,} connected: a publish is refused after {rights:.0f} ms;")
        print(f"one that lets a device connect no more: its socket is closed after {ended:.0f} ms (best of {ROUNDS})")


def _decisions(documents: list[dict[str, object]]) -> tuple[float, float, float]:
    program = Program([Attached(f"p{number}", 1, read(given)) for number, given in enumerate(documents)])
    topics = [f"devices/pump-1/telemetry/{number}" for number in range(TOPICS)]

    def made() -> Compiled:
        return Compiled(program, {"device.id": "pump-1"}, Caller("pump-1"))

    first = _best(lambda: [made().may_publish(topic) for topic in topics])
    rights = made()
    rights.may_publish("devices/pump-1/telemetry")

    def decide() -> None:
        rights._known = None  # noqa: SLF001 - what was decided is forgotten, what was compiled is not
        for topic in topics:
            rights.decide(Action.PUBLISH, topic)

    return first, _best(decide), _best(lambda: [rights.may_publish(topic) for topic in topics])


def _best(work: Callable[[], object]) -> float:
    """Microseconds for one topic, the best of some rounds."""
    found = []
    for _ in range(20):
        began = time.perf_counter()
        work()
        found.append((time.perf_counter() - began) / TOPICS * 1e6)
    return min(found)


def _effect(server: Server, made: Fleet) -> tuple[float, float]:
    """Seconds from a request to its effect on a connection: a publish that is refused, a socket that is closed."""
    host, port = server.address.rsplit(":", 1)
    name = "sim-04999"
    context = ssl.create_default_context(cafile=made.clients / "ca.pem")
    context.load_cert_chain(made.clients / f"{name}.pem", made.clients / f"{name}-key.pem")
    api = f"http://{made.state.server()['http']}/api/v1/policies"
    headers = {"Authorization": f"Bearer {made.state.token()}"}
    with (
        context.wrap_socket(socket.create_connection((host, int(port))), server_hostname="localhost") as client,
        httpx.Client(headers=headers, trust_env=False, timeout=30) as operator,
    ):
        _connect(client, name)
        for policy, action in (("no-publish", "publish"), ("no-connect", "connect")):
            statement = {"Effect": "Deny", "Action": action, "Resource": "*"}
            document = json.dumps({"Statement": [statement]})
            operator.put(f"{api}/{policy}", json={"document": document}).raise_for_status()
        began = time.perf_counter()
        operator.post(f"{api}/no-publish/attachments", json={"kind": "all"}).raise_for_status()
        while _publish(client, name) == 0:
            pass
        rights = time.perf_counter() - began
        operator.post(f"{api}/no-publish/attachments/remove", json={"kind": "all"}).raise_for_status()
        target = {"kind": "device", "target": name}
        began = time.perf_counter()
        operator.post(f"{api}/no-connect/attachments", json=target).raise_for_status()
        while client.recv(100):
            pass
        ended = time.perf_counter() - began
        operator.post(f"{api}/no-connect/attachments/remove", json=target).raise_for_status()
    return rights, ended


def _connect(client: ssl.SSLSocket, name: str) -> None:
    """MQTT 5, for it is told what is refused."""
    client.sendall(b"\x10%c\x00\x04MQTT\x05\x02\x00\x3c\x00\x00%c%b" % (13 + len(name), len(name), name.encode()))
    answer = client.recv(100)
    assert answer[0] == 0x20, answer
    assert answer[3] == 0, answer


def _publish(client: ssl.SSLSocket, name: str) -> int:
    """The reason that a message with QoS 1 is acknowledged with."""
    topic = f"devices/{name}/telemetry".encode()
    body = bytes([0, len(topic)]) + topic + b"\x00\x01\x00{}"
    client.sendall(bytes([0x32, len(body)]) + body)
    answer = client.recv(200)
    assert answer[0] == 0x40, answer
    return answer[4] if answer[1] > 2 else 0
