"""Requests that are meant to do harm: each is refused with a problem that names its place, by either database."""

import json

import httpx
import pytest

from fleet.authority import signing_request
from fleet.state import StateFolder
from fleetgate.core import open_core
from fleetgate.http.api import create_api
from fleetgate.http.server import HttpServer
from fleetgate.settings import Settings

DEEP = b"[" * 100_000
NESTED = b'{"devices": [' + b"[" * 400 + b"]" * 400 + b"]}"
HUGE = 10**400
CASES = [
    # A NUL character, which PostgreSQL can't hold, wherever there is a text.
    ("GET", "/devices?after=a%00b", None, 422, "after"),
    ("GET", "/devices?query=%00", None, 422, "query"),
    ("GET", "/devices/%00", None, 422, "name"),
    ("DELETE", "/devices/a%00?purge=true", None, 422, "name"),
    ("GET", "/devices/a/telemetry?stream=%00", None, 422, "stream"),
    ("GET", "/provisionings?by=%00", None, 422, "by"),
    ("GET", "/enrolment-lists/a%00b", None, 422, "name"),
    ("GET", "/connections/a%00b", None, 422, "client_id"),
    ("PUT", "/types/a", {"description": "a\0b"}, 422, "description"),
    ("PUT", "/groups/a", {"description": "\0"}, 422, "description"),
    ("POST", "/groups/a/devices", {"devices": ["a", "\0"]}, 422, "devices.1"),
    ("PATCH", "/devices/a", {"attributes": {"a\0": "x"}}, 422, "attributes"),
    ("POST", "/device-actions", {"action": "retire", "devices": ["\0"]}, 422, "devices.0"),
    ("POST", "/messages", {"topic": "a\0", "payload": "x"}, 422, "topic"),
    ("POST", "/messages", {"topic": "a", "payload": "\0"}, 200, ""),
    # Half a character, which is no UTF-8.
    ("POST", "/device-actions", b'{"action": "retire", "devices": ["\\ud800"]}', 422, "devices.0"),
    ("PUT", "/types/a", b'{"description": "\\uDFFF x"}', 422, "description"),
    ("POST", "/messages", b'{"topic": "a", "payload": "\\ud800"}', 422, "payload"),
    ("POST", "/messages", b'{"topic": "a", "payload": "\\ud83d\\ude00"}', 200, ""),
    # Numbers that no database has.
    ("GET", "/quarantine?after=9223372036854775808", None, 422, "after"),
    ("GET", f"/quarantine?after={HUGE}", None, 422, "after"),
    ("GET", "/quarantine?after=-1", None, 422, "after"),
    ("GET", f"/quarantine/{2**70}", None, 422, "entry"),
    ("GET", "/quarantine?limit=99999999999999999999", None, 422, "limit"),
    ("POST", "/quarantine/replay", {"ids": [2**63]}, 422, "ids.0"),
    ("GET", f"/policies/default/versions/{HUGE}", None, 404, "version"),
    ("GET", "/audit?before=99999999999999999999", None, 422, "before"),
    ("POST", "/claims", {"name": "c", "template": "t", "csr": "x", "max_uses": 2**63}, 422, "max_uses"),
    ("POST", "/groups/a/devices", {"devices": HUGE}, 422, "devices"),
    ("POST", "/device-actions", {"action": "retire", "devices": 2**64}, 422, "devices"),
    ("POST", "/device-actions", {"action": HUGE}, 422, "action"),
    ("POST", "/policies/default/attachments", {"kind": "device", "target": -(2**64)}, 422, "target"),
    ("PUT", "/devices/a/quota", {"messages_per_minute": HUGE}, 422, "messages_per_minute"),
    ("PATCH", "/devices/a", {"attributes": {"x": 2**64}}, 422, "attributes.x"),
    # Times that there are not.
    ("GET", "/devices/a/telemetry?from=9999999-01-01T00:00:00Z", None, 422, "from"),
    ("GET", "/devices/a/telemetry?to=-99999999999999w", None, 422, "to"),
    ("GET", "/devices/a/telemetry?from=0001-01-01T00:00:00%2B23:59", None, 200, ""),
    ("GET", "/decisions?device=a&since=9999-12-31T23:59:59-23:59", None, 200, ""),
    # Bodies that are none.
    ("POST", "/device-actions", b"{", 422, "body"),
    ("POST", "/device-actions", b"", 422, "body"),
    ("POST", "/device-actions", b"null", 422, "body"),
    ("POST", "/device-actions", b"\xff\xfe", 422, "body"),
    ("POST", "/device-actions", DEEP, 400, "body"),
    ("POST", "/groups/a/devices", NESTED, 422, "devices"),
    ("PUT", "/types/a", b'{"description": "x", "\\u0000": 1}', 422, "x00"),
    # Names that mean another path, another case or another kind.
    ("GET", "/devices/A", None, 404, "'A'"),
    ("GET", "/devices/..%2Fapplications%2Fback", None, 404, "Not Found"),
    ("DELETE", "/devices/back", None, 404, "back"),
    ("DELETE", "/devices/a%20", None, 404, "a "),
    ("DELETE", "/devices/a/", None, 404, "Not Found"),
    ("GET", "/devices/", None, 404, "Not Found"),
    ("POST", "/devices/" + "a" * 129 + "/disable", None, 422, "name"),
    ("DELETE", "/devices", None, 405, "Method Not Allowed"),
    ("TRACE", "/devices/a", None, 405, "Method Not Allowed"),
]


@pytest.fixture(params=["sqlite", "postgres"])
async def client(request, tmp_path):
    url = request.getfixturevalue("new_database")() if request.param == "postgres" else ""
    async with (
        open_core(Settings(registry={"url": url}), StateFolder(tmp_path / "state")) as core,
        HttpServer(create_api(core), unix=tmp_path / "api", closing=core.tail.close),
        httpx.AsyncClient(
            base_url="http://x/api/v1",
            transport=httpx.AsyncHTTPTransport(uds=str(tmp_path / "api")),
            headers={"Authorization": f"Bearer {core.state.token()}"},
        ) as made,
    ):
        for name, plural in (("a", "devices"), ("back", "applications")):
            added = await made.post(f"/{plural}", json={"name": name, "csr": signing_request(name)[1].decode()})
            assert added.status_code == 201
        await made.put("/groups/a", json={})
        yield made


async def test_requests_that_are_refused(client):
    """With a problem document below 500 that names what is wrong; afterwards everything is as it was."""
    before = [(await client.get(path)).json() for path in ("/devices", "/applications", "/groups", "/types")]
    for method, path, body, status, place in CASES:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        answer = await client.request(method, path, content=content, headers=headers)
        about = method, path[:80], str(body)[:80], answer.text[:300]
        assert answer.status_code == status, about
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json", about
            assert place in answer.json()["detail"], about
    assert [(await client.get(path)).json() for path in ("/devices", "/applications", "/groups", "/types")] == before
