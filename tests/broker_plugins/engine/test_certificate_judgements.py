"""One judgement of certificates: what is said of one beforehand is what its handshake and CONNECT bring."""

import asyncio
import contextlib
import json
import ssl
from pathlib import Path

import httpx
from cryptography import x509

from broker_plugins.engine.packets import V5, Connack, Connect
from fleet.certificates import from_pem
from fleet.identity import Kind
from tests.broker_plugins.engine.certificate_cases import Case, Pki, all_cases
from tests.broker_plugins.engine.client import Client, Served, served
from tests.fleet.pki import pem
from tests.waiting import until

ADDED = {"good", "below-expired", "alone", "is-authority", "md5", "two-names", "critical", "serial-0"}
"""Registered by themselves, too."""


async def test_what_is_said_of_a_certificate_is_what_happens(tmp_path):
    """By a list, by registering a device with it or one more, by check, and at a handshake and CONNECT: one verdict,
    for one reason.
    """
    pki = Pki()
    cases = all_cases(pki, tmp_path)
    (tmp_path / "known.pem").write_bytes(b"".join(map(pem, pki.known)))
    wrong = []
    async with served(tmp_path / "gate", tls={"client_ca": str(tmp_path / "known.pem")}) as gate:
        headers = {"Authorization": f"Bearer {gate.core.state.token()}"}
        url = "http://{}:{}/api/v1".format(*gate.addresses["http"])
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            listed = await _listed(client, cases)
            for case in cases:
                found = {"import": listed[case.name], **await _found(gate, client, case)}
                if set(found.values()) != {case.reason}:
                    wrong.append((case.name, case.reason, found))
                connected = await _connected(gate, case, tmp_path)
                if connected != (case.reason if case.connect is None else case.connect):
                    wrong.append((case.name, case.reason, connected))
    assert not wrong, "\n".join(map(str, wrong))


async def _listed(client: httpx.AsyncClient, cases: list[Case]) -> dict[str, str]:
    """What a list of all of them would come to."""
    rows = "".join(json.dumps({"name": case.name, "certificate": case.chain.decode()}) + "\n" for case in cases)
    begun = await client.post(
        "/device-imports?dry_run=true", content=rows, headers={"Content-Type": "application/x-ndjson"}
    )

    async def ended() -> dict | None:
        found = (await client.get(f"/operations/{begun.json()['id']}")).json()
        return found if found["state"] == "done" else None

    async with asyncio.timeout(20):
        while (operation := await ended()) is None:
            await asyncio.sleep(0.01)
    bad = {row["name"]: _reason(row["problem"]) for row in operation["result"]["bad"]}
    return {case.name: bad.get(case.name, "") for case in cases}


async def _found(gate: Served, client: httpx.AsyncClient, case: Case) -> dict[str, str]:
    """The reason that each door names; empty: it is let in. In the end the registry knows it, as far as it can."""
    text, registry, found = case.chain.decode(), gate.core.registry, {}
    if case.name in ADDED:
        found["device add"] = await _added(client, "/devices", {"name": case.name, "certificate": text})
    if registry.find(Kind.DEVICE, case.name) is None and (known := _read(case.chain)) is not None:
        await registry.add(Kind.DEVICE, case.name, known)
        if case.name in ADDED:
            found["certificate add"] = await _added(client, f"/devices/{case.name}/certificates", {"certificate": text})
    answer = await client.post("/provisioning/check", json={"certificate": text})
    found["check"] = _reason(answer.json()["detail"]) if answer.is_error else answer.json()["reason"] or ""
    return found


def _reason(problem: str) -> str:
    return problem.partition("refused (")[2].partition(")")[0] or "unreadable_certificate"


async def _added(client: httpx.AsyncClient, path: str, body: dict) -> str:
    answer = await client.post(path, json=body)
    if answer.status_code == 201:
        return ""
    assert answer.json()["code"] == "invalid_certificate", answer.text
    return _reason(answer.json()["detail"])


async def _connected(gate: Served, case: Case, folder: Path) -> str:
    before, refused = dict(gate.core.connects._refused), gate.core.connects._refused
    (folder / "chain.pem").write_bytes(case.chain)
    (folder / "chain.key").write_bytes(case.key)
    context = ssl.create_default_context(cadata=gate.core.authority.ca_pem.decode())
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.load_cert_chain(folder / "chain.pem", folder / "chain.key")
    answer = None
    with contextlib.suppress(OSError):
        streams = await asyncio.open_connection(*gate.addresses["mqtts"], ssl=context, server_hostname="localhost")
        async with Client(V5, *streams) as client:
            await client.send(Connect(V5, case.name, True, 0))
            answer = await client.receive()
    if isinstance(answer, Connack) and answer.reason == 0:
        return ""
    return (await until(lambda: [why for why, count in refused.items() if count > before[why]]))[0]


def _read(chain: bytes) -> x509.Certificate | None:
    try:
        return from_pem(chain)[0]
    except ValueError:
        return None
