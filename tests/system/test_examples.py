"""The examples of the API's document: one for each endpoint, as the program answers (`make recorded` records)."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from fleet.authority import signing_request
from fleetgate.http.openapi import EXAMPLES
from tests.fleet.pki import certificate, key, name, pem
from tests.system.gate import Gate
from tests.waiting import wait_until

V1 = "/api/v1"
METHODS = {"get", "put", "post", "patch", "delete"}
SECRETS = {"token", "csrf", "passphrase"}
ROWS = 2
LINES = 8


class Recorder:
    """Asks, and keeps the first request and answer of each route, without what is secret, long, or of this machine."""

    def __init__(self, gate: Gate) -> None:
        self._folder = str(gate.folder)
        token = (gate.state / "admin.token").read_text().strip()
        self.client = httpx.Client(
            base_url=f"http://{gate.addresses['http']}", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        self.found: dict[str, dict[str, Any]] = {}

    def __call__(self, route: str, *values: str, prefix: str = V1, **more: Any) -> Any:
        """Ask: `values` for the names in the path. The answer's JSON, or its bytes."""
        answer = self.client.request(*self._begin(route, values, prefix, more), **more)
        assert answer.is_success, (route, answer.status_code, answer.text)
        told = "json" in answer.headers.get("content-type", "") and "ndjson" not in answer.headers["content-type"]
        self._end(route, prefix, answer, answer.json() if told else _text(answer.content))
        return answer.json() if told else answer.content

    @contextmanager
    def watching(self, route: str, lines: int, **more: Any) -> Iterator[None]:
        """Read the first lines of an answer that never ends; what happens in the block is in them."""
        with self.client.stream(*self._begin(route, (), V1, more), **more) as answer:
            yield
            read = iter(answer.iter_lines())
            told = [next(read) for _ in range(lines)]
            self._end(route, V1, answer, "\n".join(told) + "\n")

    def _begin(self, route: str, values: tuple[str, ...], prefix: str, more: dict[str, Any]) -> tuple[str, str]:
        method, _, path = route.partition(" ")
        names = re.findall(r"\{(\w+)\}", path)
        assert len(names) == len(values), route
        kept = (int(value) if value.isdigit() else value for value in values)
        asked = {"path": dict(zip(names, kept, strict=True)), "query": more.get("params"), "body": _body(more)}
        self.found.setdefault(
            f"{method} {prefix}{path}", {key: self._tidy(value) for key, value in asked.items() if value}
        )
        for each, value in zip(names, values, strict=True):
            path = path.replace(f"{{{each}}}", value)
        return method, prefix + path

    def _end(self, route: str, prefix: str, answer: httpx.Response, told: Any) -> None:
        method, _, path = route.partition(" ")
        kept = self.found[f"{method} {prefix}{path}"]
        if "status" not in kept:
            media_type = answer.headers.get("content-type", "").partition(";")[0]
            kept.update(status=answer.status_code, media_type=media_type)
            if told is not None:
                kept["answer"] = self._tidy(told)

    def _tidy(self, value: Any, called: str = "") -> Any:
        if isinstance(value, dict):
            return {key: self._tidy(each, key) for key, each in value.items()}
        if isinstance(value, list):
            return [self._tidy(each) for each in value[:ROWS]]
        if not isinstance(value, str):
            return value
        if called in SECRETS:
            return "..."
        value = value.replace(self._folder, "/srv/fleetgate")
        value = re.sub(r"(-----BEGIN [A-Z ]+-----\n)[^-]+", r"\1...\n", value)
        value = re.sub(r"(?s)(-----END [A-Z ]+-----\n).+", r"\1", value)
        return "".join(value.splitlines(keepends=True)[:LINES])


def _body(more: dict[str, Any]) -> Any:
    return more["json"] if "json" in more else _text(more.get("content", b""))


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def shape(value: Any) -> Any:
    """What kind of thing it is: names and kinds of values, not the values."""
    if isinstance(value, dict):
        return {re.sub("^[0-9a-f]{64}$", "fingerprint", key): shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return "number" if type(value) in {int, float} else type(value).__name__


def alike(one: Any, other: Any) -> bool:
    """Whether two shapes may be of one kind: what is not there now may have been then."""
    if "NoneType" in (one, other):
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return all(alike(first, second) for first, second in zip(one, other, strict=False))
    return one == other


def scenario(gate: Gate, ask: Recorder) -> None:
    """A life with the API, in which each endpoint is used."""
    _operations(ask)
    _fleet(ask)
    _certificates(ask)
    _telemetry(gate, ask)
    _connections(gate, ask)
    _streams(ask)
    _policies(gate, ask)
    _quotas(ask)
    _rules(ask)
    _provisioning(ask)
    _analytics(gate, ask)
    _operators(ask)
    _end(ask)


def _csr(called: str) -> str:
    return signing_request(called)[1].decode()


def _operations(ask: Recorder) -> None:
    for path in ("healthz", "readyz", "metrics", "pki/ca.pem", "pki/ca.crl", "pki/ca-crl.pem"):
        ask(f"GET /{path}", prefix="")
    ask("GET /me")
    ask("GET /actions")
    ask("POST /tls/reload")


def _fleet(ask: Recorder) -> None:
    body = {"description": "pumps of the halls", "required": {"fw": "string"}, "messages_per_minute": 6}
    ask("PUT /types/{name}", "pump", json=body)
    ask("GET /types")
    ask("GET /types/{name}", "pump")
    ask("PUT /groups/{name}", "hall-7", json={"description": "the new hall"})
    known = {"display_name": "Pump 1", "type": "pump", "site": "hall", "attributes": {"fw": "1.4.0"}, "tags": ["new"]}
    made = ask("POST /devices", json={"name": "pump-1", "csr": _csr("pump-1"), **known})
    assert made["device"]["version"] == 1
    imported = b"name,type,site,attributes.fw\nlamp-1,pump,yard,1.0\nlamp-2,pump,yard,1.1\n"
    operation = ask("POST /device-imports", content=imported, headers={"Content-Type": "text/csv"})
    ended(ask, operation["id"])
    ask("GET /devices", params={"query": "type:pump AND NOT tag:lab", "limit": 2})
    ask("GET /device-counts", params={"by": "site"})
    ask("GET /devices/{name}", "pump-1")
    ask("PATCH /devices/{name}", "pump-1", json={"notes": "oiled", "attributes": {"fw": "1.4.1"}})
    ask("POST /groups/{name}/devices", "hall-7", json={"devices": ["pump-1"]})
    ask("GET /groups")
    ask("GET /groups/{name}", "hall-7")
    ask("POST /device-actions", json={"action": "disable", "query": "site:yard", "dry_run": True})
    ask("POST /devices/{name}/disable", "lamp-1")
    ask("POST /devices/{name}/enable", "lamp-1")
    ask("POST /devices/{name}/revoke", "lamp-2")
    ask("POST /devices/{name}/retire", "lamp-2")
    new = {"name": "backend", "csr": _csr("backend"), "subscribe": ["devices/+/telemetry/#"], "publish": []}
    ask("POST /applications", json=new)
    ask("GET /applications")
    ask("GET /applications/{name}", "backend")
    ask("POST /applications/{name}/certificates", "backend", json={"csr": _csr("backend")})
    for action in ("disable", "enable", "revoke", "retire"):
        ask(f"POST /applications/{{name}}/{action}", "backend")
    ask("DELETE /applications/{name}", "backend")


def ended(ask: Recorder, operation: str) -> None:
    """Wait for an operation of the server."""
    wait_until(lambda: ask("GET /operations/{operation}", operation)["state"] != "running", what="the operation's end")
    assert ask("GET /operations/{operation}", operation)["state"] == "done"


def _certificates(ask: Recorder) -> None:
    added = ask("POST /devices/{name}/certificates", "lamp-1", json={"csr": _csr("lamp-1"), "active": False})
    issued = x509.load_pem_x509_certificate(added["certificate"].encode())
    fingerprint = issued.fingerprint(SHA256()).hex()
    ask("GET /certificates/{fingerprint}", fingerprint)
    for action in ("activate", "deactivate", "revoke"):
        ask(f"POST /certificates/{{fingerprint}}/{action}", fingerprint)
    authority, issuing = x509.load_pem_x509_certificates(ask("GET /pki/ca.pem", prefix=""))
    assert issuing.issuer == authority.subject
    request = ocsp.OCSPRequestBuilder().add_certificate(issued, issuing, SHA256()).build()
    asked = request.public_bytes(Encoding.DER)
    ask("POST /pki/ocsp", prefix="", content=asked, headers={"Content-Type": "application/ocsp-request"})
    ask("GET /pki/ocsp/{asked}", base64.b64encode(asked).decode().replace("/", "%2F"), prefix="")


def _telemetry(gate: Gate, ask: Recorder) -> None:
    with ask.watching("GET /tail", 2, params={"device": "meter-1"}):
        for temperature in (21.5, 22.0):
            sent = gate.publish("meter-1", "devices/meter-1/telemetry", json.dumps({"temperature": temperature}))
            assert sent.returncode == 0, sent.stderr
        gate.publish("meter-1", "devices/meter-1/telemetry", "{temperature: 23}")
    gate.wait_for("fleetgate_messages_quarantined_total", 1)
    ask("GET /telemetry/settled")
    ask("GET /devices/{name}/telemetry", "meter-1", params={"field": "temperature", "from": "-1h"})
    ask("GET /devices/{name}/telemetry/last", "meter-1")
    ask("GET /devices/{name}/clock", "meter-1")
    ask("GET /devices/{name}/presence", "meter-1")
    wait_until(lambda: "disconnected" in gate.get(f"{V1}/devices/meter-1/timeline"), what="the timeline is written")
    ask("GET /devices/{name}/timeline", "meter-1", params={"limit": 2})
    ask("GET /telemetry/recent", params={"limit": 2})
    ask("GET /top", params={"limit": 2})
    entry = ask("GET /quarantine")[0]["id"]
    ask("GET /quarantine/summary")
    ask("GET /quarantine/{entry}", str(entry))
    repaired = base64.b64encode(b'{"temperature": 23}').decode()
    ask("POST /quarantine/replay", json={"ids": [entry], "payload_base64": repaired})


def _connections(gate: Gate, ask: Recorder) -> None:
    with gate.listening("meter-1", "devices/meter-1/config/#"):
        ask("GET /connections")
        ask("GET /connections/{client_id}", "meter-1")
        message = {"topic": "devices/meter-1/config/interval", "payload": '{"seconds": 10}', "qos": 1, "retain": True}
        with ask.watching("GET /packets", 2, params={"device": "meter-1"}):
            ask("POST /messages", json=message)
        with ask.watching("GET /changes", 5, params={"kinds": "device"}):
            ask("PATCH /devices/{name}", "meter-1", json={"site": "hall"})
        ask("DELETE /connections/{client_id}", "meter-1")


def _streams(ask: Recorder) -> None:
    radio = {"filter": "devices/{device}/telemetry/radio", "codec": "binary", "layout": "i16 temperature /10; i8 rssi"}
    ask("PUT /streams/{name}", "radio", json=radio)
    ask("GET /streams")
    ask("GET /streams/{name}", "radio")
    ask("GET /stream-fields")
    tried = {"topic": "devices/meter-1/telemetry/radio", "payload_base64": base64.b64encode(b"\x00\xd7\xba").decode()}
    ask("POST /codec-trials", json=tried)
    ask("DELETE /streams/{name}", "radio")


def _policies(gate: Gate, ask: Recorder) -> None:
    document = "- name: own branch\n  allow: publish\n  to: devices/${device.id}/*\n"
    ask("PUT /policies/{name}", "plant", json={"document": document, "description": "what plants may do"})
    ask("PUT /policies/{name}", "plant", json={"document": document.replace("publish", "[publish, retain]")})
    ask("GET /policies")
    ask("GET /policies/{name}", "plant")
    ask("GET /policies/{name}/versions/{number}", "plant", "1")
    ask("POST /policies/{name}/default", "plant", json={"version": 2})
    ask("POST /policies/{name}/attachments", "plant", json={"kind": "group", "target": "hall-7"})
    ask("POST /policies/{name}/attachments/remove", "plant", json={"kind": "group", "target": "hall-7"})
    gate.publish("meter-1", "plant/meter-1", "1")
    ask("GET /decisions", params={"device": "meter-1"})
    ask("POST /policy-simulations", json={"name": "plant", "document": document, "attach": {"kind": "all"}})
    ask("GET /explain", params={"device": "pump-1", "publish": "devices/pump-1/telemetry"})
    ask("DELETE /policies/{name}/versions/{number}", "plant", "1")
    ask("DELETE /policies/{name}", "plant")


def _quotas(ask: Recorder) -> None:
    ask("PUT /quota", json={"messages_per_minute": 600, "bytes_per_day": 50_000_000})
    ask("PUT /types/{name}/quota", "pump", json={"messages_per_day": 5000, "over": "suspend"})
    ask("PUT /devices/{name}/quota", "meter-1", json={"messages_per_minute": 10, "over": "slow"})
    ask("GET /quotas")
    ask("GET /devices/{name}/usage", "meter-1", params={"days": 7})
    ask("DELETE /devices/{name}/quota", "meter-1")
    ask("DELETE /types/{name}/quota", "pump")
    ask("DELETE /quota")


def _rules(ask: Recorder) -> None:
    document = "when: state:active AND NOT last_data>=now-90d\nthen: suspend\nevery: day\nmost: 100\n"
    ask("PUT /lifecycle-rules/{name}", "gone", json={"document": document})
    ask("GET /lifecycle-rules")
    ask("GET /lifecycle-rules/{name}", "gone")
    ask("POST /lifecycle-rules/{name}/dry-run", "gone")
    for action in ("enable", "run", "disable"):
        ask(f"POST /lifecycle-rules/{{name}}/{action}", "gone")
    ask("DELETE /lifecycle-rules/{name}", "gone")


def _provisioning(ask: Recorder) -> None:
    document = json.dumps({"device": "board-${parameters.serial}", "parameters": {"serial": {"pattern": "[0-9]{4}"}}})
    ask("PUT /templates/{name}", "boards", json={"document": document})
    ask("PUT /templates/{name}", "vendor", json={"document": json.dumps({"attributes": {"maker": "Example"}})})
    ask("GET /templates")
    ask("GET /templates/{name}", "boards")
    ask("POST /claims", json={"name": "factory", "template": "boards", "csr": _csr("factory"), "max_uses": 1000})
    ask("GET /claims")
    ask("GET /claims/{name}", "factory")
    ask("POST /claims/{name}/revoke", "factory")
    entries = [{"value": "0001", "site": "hall"}, {"value": "0002"}]
    ask("PUT /enrolment-lists/{name}", "boards", json={"kind": "serial", "entries": entries})
    ask("GET /enrolment-lists")
    ask("GET /enrolment-lists/{name}", "boards")
    own = key()
    vendor = certificate(ca=True, own=own, subject=name("Example Devices CA"), uris=(), usage=None, days=3650)
    body = {"certificate": pem(vendor).decode(), "mode": "pending", "template": "vendor", "identity": "subject_cn"}
    ask("PUT /authorities/{name}", "vendor", json=body)
    ask("GET /authorities")
    ask("GET /authorities/{name}", "vendor")
    device = certificate(cn="valve-9", uris=(), issuer=vendor, issuer_key=own)
    ask("POST /provisioning/check", json={"certificate": pem(device).decode()})
    ask("GET /pending-certificates")
    ask("GET /provisionings")
    ask("DELETE /authorities/{name}", "vendor")
    ask("DELETE /enrolment-lists/{name}", "boards")
    ask("DELETE /claims/{name}", "factory")
    ask("DELETE /templates/{name}", "boards")


def _analytics(gate: Gate, ask: Recorder) -> None:
    ask("GET /store")
    ask("POST /store/seal")
    ask("GET /store/files")
    ask("POST /store/scrub")
    sql = "SELECT device, count(*) AS messages FROM readings GROUP BY device"
    ask("POST /sql", json={"sql": sql})
    asked = {"field": "temperature", "bucket": "1h", "by": "site", "query": "site:hall"}
    ask("GET /telemetry/buckets", params=asked)
    ask("PUT /datasets/{name}", "hourly", json={"sql": sql, "every": "1h", "format": "json", "keep": 24})
    ask("GET /datasets")
    ask("GET /datasets/{name}", "hourly")
    ask("POST /datasets/{name}/run", "hourly")
    ask("GET /datasets/{name}/results", "hourly")
    ask("GET /datasets/{name}/result", "hourly")
    ask("DELETE /datasets/{name}", "hourly")
    operation = ask(
        "POST /backups", json={"file": str(gate.folder / "monday.fleetgate"), "passphrase": "correct horse"}
    )
    ended(ask, operation["id"])


def _operators(ask: Recorder) -> None:
    ask("PUT /operators/{name}", "anna", json={"role": "operator", "sites": ["hall"], "groups": ["hall-7"]})
    ask("GET /operators")
    ask("GET /operators/{name}", "anna")
    ask("GET /operators/{name}/explanation", "anna", params={"action": "device.retire", "device": "lamp-1"})
    token = ask("POST /operators/{name}/tokens", "anna", json={"description": "notebook", "days": 30})
    ask("GET /operators/{name}/tokens", "anna")
    ask("DELETE /operators/{name}/tokens/{token}", "anna", token["id"])
    ask("PUT /operators/{name}/password", "anna", json={"password": "correct horse battery staple"})
    bearer = ask.client.headers.pop("Authorization")
    ask("POST /session", json={"name": "anna", "password": "correct horse battery staple"})
    ask.client.headers["X-CSRF-Token"] = ask("GET /session")["csrf"]
    ask("DELETE /session")
    ask.client.headers["Authorization"] = bearer
    ask("DELETE /operators/{name}", "anna")
    ask("GET /audit", params={"target": "pump-1", "limit": 2})
    ask("GET /audit/export")
    kept = ask("GET /audit/checkpoint")
    assert ask("POST /audit/verify", json={"checkpoints": [kept]})["ok"] is True


def _end(ask: Recorder) -> None:
    ask("POST /groups/{name}/devices/remove", "hall-7", json={"devices": ["pump-1"]})
    ask("DELETE /groups/{name}", "hall-7")
    for device in ("lamp-1", "lamp-2", "pump-1", "meter-1"):
        ask("DELETE /devices/{name}", device)
    ask("DELETE /types/{name}", "pump")
    ask("POST /store/migrate", json={"url": "postgresql://fleetgate@127.0.0.1:1/telemetry"})  # nobody is there


def test_the_examples_are_what_the_program_answers(tmp_path: Path, need, request):
    """Each endpoint of the document has one, with the status, the kind of answer and the names that are told now."""
    need("mosquitto_pub", "mosquitto_sub")
    with Gate(tmp_path) as gate:
        gate.add("meter-1")
        ask = Recorder(gate)
        with ask.client:
            scenario(gate, ask)
        described = json.loads(gate.get(f"{V1}/openapi.json"))
    if request.config.getoption("--record"):  # the generated client is made of this document, too
        text = json.dumps(dict(sorted(ask.found.items())), indent=1, ensure_ascii=False)
        EXAMPLES.write_text(text + "\n")
    recorded = json.loads(EXAMPLES.read_text())
    endpoints = {
        f"{method.upper()} {path}"
        for path, about in described["paths"].items()
        for method in about
        if method in METHODS
    }
    assert recorded.keys() == endpoints
    for route, found in ask.found.items():
        kept = recorded[route]
        assert alike(shape(kept), shape(found)), (route, kept, found)
        assert (kept["status"], kept["media_type"]) == (found["status"], found["media_type"]), route


@pytest.mark.parametrize("secret", ["PRIVATE KEY-----\\nM", "fg_"])
def test_no_secret_is_in_the_examples(secret: str):
    """They are in the repository, and told to whoever asks for the document."""
    assert secret not in EXAMPLES.read_text()
