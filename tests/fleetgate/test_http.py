"""The API, in this process over a Unix socket."""

import asyncio
import base64

import httpx
import pytest

from fleet.authority import signing_request
from fleet.state import StateFolder
from fleetgate.core import open_core
from fleetgate.http.api import create_api
from fleetgate.http.server import HttpServer
from fleetgate.settings import Settings
from fleetgate.times import iso
from ingester.batch import Batch, Quarantined
from ingester.clock import now_us
from ingester.quarantine import replay
from ingester.store import Selection
from tests.fleet.pki import certificate, pem
from tests.waiting import until

T = 1_795_392_000_000_000


@pytest.fixture
async def core(tmp_path):
    async with open_core(Settings(), StateFolder(tmp_path / "state")) as opened:
        yield opened


@pytest.fixture
async def client(core, tmp_path):
    token = core.state.token()
    async with (
        HttpServer(create_api(core), unix=tmp_path / "api", closing=core.tail.close),
        httpx.AsyncClient(
            base_url="http://x",
            transport=httpx.AsyncHTTPTransport(uds=str(tmp_path / "api")),
            headers={"Authorization": f"Bearer {token}"},
        ) as made,
    ):
        yield made


async def store(core, device: str, *payloads: bytes) -> None:
    batch = Batch()
    for number, payload in enumerate(payloads):
        batch.append(device, "default", T + number, payload)
    before = core.ledger.totals.stored + core.ledger.totals.quarantined
    assert core.pipeline.offer(batch)
    await until(lambda: core.ledger.totals.stored + core.ledger.totals.quarantined == before + len(payloads))


async def test_a_token_is_needed(client):
    """For every path of the API, and a wrong one is as good as none; operations are open."""
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
        answer = await client.get("/api/v1/devices", headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz", "/metrics", "/api/v1/openapi.json"):
        assert (await client.get(path, headers={"Authorization": ""})).status_code == 200


async def test_errors_are_problem_documents(client):
    """Each with its status, and a detail that names what is wrong."""
    _key, csr = signing_request("a")
    cases = [
        ("GET", "/api/v1/nothing", None, 404, "Not Found"),
        ("PUT", "/api/v1/devices", None, 405, "Method Not Allowed"),
        ("GET", "/api/v1/devices/nobody", None, 404, "nobody"),
        ("GET", "/api/v1/devices/nobody/telemetry", None, 404, "nobody"),
        ("POST", "/api/v1/devices", {}, 422, "name"),
        ("POST", "/api/v1/devices", {"name": "a", "cst": "x"}, 422, "cst"),
        ("POST", "/api/v1/devices", {"name": "a"}, 422, "exactly one"),
        ("POST", "/api/v1/devices", {"name": "a/b", "csr": csr.decode()}, 422, "not a device name"),
        ("POST", "/api/v1/devices", {"name": "a", "csr": "x"}, 422, "signing request"),
        ("POST", "/api/v1/devices", {"name": "a", "certificate": pem(certificate()).decode()}, 422, "pump-1"),
        ("POST", "/api/v1/devices", {"name": "a", "certificate": pem(certificate(ca=True)).decode()}, 422, "CA"),
        ("GET", "/api/v1/devices?limit=0", None, 422, "limit"),
        ("GET", "/api/v1/quarantine/7", None, 404, "7"),
    ]
    for method, path, body, status, detail in cases:
        answer = await client.request(method, path, json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), path
        found = answer.json()
        assert found["type"] == f"urn:fleetgate:problem:{found['code']}"
        assert found["code"] == {404: "not_found", 405: "method_not_allowed", 422: found["code"]}[status]
        assert detail in answer.json()["detail"], (path, answer.text)
        assert answer.json()["status"] == status


async def test_a_device_from_csr_to_deletion(client, core):
    """Add, list, show, disable, enable, revoke, delete with its telemetry."""
    _key, csr = signing_request("pump-1")
    added = await client.post("/api/v1/devices", json={"name": "pump-1", "csr": csr.decode()})
    assert added.status_code == 201
    assert added.json()["ca"] == core.authority.ca_pem.decode()
    again = await client.post("/api/v1/devices", json={"name": "pump-1", "csr": csr.decode()})
    assert again.status_code == 409
    taken = await client.post("/api/v1/devices", json={"name": "pump-2", "csr": csr.decode()})
    assert (taken.status_code, "this key is pump-1's already" in taken.json()["detail"]) == (409, True)
    _key, other = signing_request("pump-2")
    await client.post("/api/v1/devices", json={"name": "pump-2", "csr": other.decode()})
    page = (await client.get("/api/v1/devices", params={"limit": 1})).json()
    assert ([item["name"] for item in page["items"]], page["next"]) == (["pump-1"], "pump-1")
    page = (await client.get("/api/v1/devices", params={"after": "pump-1"})).json()
    assert ([item["name"] for item in page["items"]], page["next"]) == (["pump-2"], None)
    for action, status in (("disable", "suspended"), ("enable", "active"), ("revoke", "active")):
        assert (await client.post(f"/api/v1/devices/pump-1/{action}")).json()["state"] == status
    shown = (await client.get("/api/v1/devices/pump-1")).json()
    assert [entry["status"] for entry in shown["certificates"]] == ["revoked"]
    await store(core, "pump-1", b'{"v": 1}', b'{"v": 2}')
    assert (await client.delete("/api/v1/devices/pump-1")).json() == {"name": "pump-1", "purged": 0}
    assert len((await client.get("/api/v1/devices/pump-1/telemetry")).json()) == 2
    await client.post("/api/v1/devices", json={"name": "pump-1", "csr": csr.decode()})
    assert (await client.delete("/api/v1/devices/pump-1", params={"purge": True})).json()["purged"] >= 1
    assert (await client.get("/api/v1/devices/pump-1/telemetry")).status_code == 404


async def test_an_application(client):
    """Has exactly the filters it was given."""
    _key, csr = signing_request("back")
    body = {"name": "back", "csr": csr.decode(), "publish": ["a/+"], "subscribe": ["b/#"]}
    added = (await client.post("/api/v1/applications", json=body)).json()["device"]
    assert (added["kind"], added["publish"], added["subscribe"]) == ("application", ["a/+"], ["b/#"])
    assert (await client.post("/api/v1/applications", json={**body, "publish": ["a#"]})).status_code == 422


async def test_telemetry(client, core):
    """Rows, one field, buckets; as an array and as JSON lines; arguments are checked."""
    await store(core, "a", *[b'{"ts": %d, "t": {"c": %d}}' % (T // 1000 + n * 1000, n) for n in range(250)])
    url = "/api/v1/devices/a/telemetry"
    newest = (await client.get(url)).json()
    assert [row["fields"] for row in newest] == [{"t.c": n} for n in range(150, 250)]
    assert newest[0] == {
        "device": "a",
        "stream": "default",
        "time": "2026-11-23T00:02:30Z",
        "received": "2026-11-23T00:00:00.000150Z",
        "fields": {"t.c": 150},
    }
    everything = await client.get(url, params={"from": "2026-11-23"}, headers={"Accept": "application/x-ndjson"})
    assert len(everything.text.splitlines()) == 250
    field = (await client.get(url, params={"field": "t.c", "to": "2026-11-23T00:00:01Z"})).json()
    assert [(row["value"], row["field"]) for row in field] == [(0, "t.c"), (1, "t.c")]
    buckets = (await client.get(url, params={"field": "t.c", "bucket": "2m"})).json()
    assert [(b["time"], b["count"], b["min"], b["max"], b["avg"], b["last"]) for b in buckets] == [
        ("2026-11-23T00:00:00Z", 120, 0, 119, 59.5, 119),
        ("2026-11-23T00:02:00Z", 120, 120, 239, 179.5, 239),
        ("2026-11-23T00:04:00Z", 10, 240, 249, 244.5, 249),
    ]
    assert (await client.get(url, params={"stream": "other"})).text == "[]\n"
    assert (await client.get(f"{url}/last")).json()[0]["fields"] == {"t.c": 249}
    hours = {"field": "t.c", "from": "2026-11-23", "bucket": "1m", "stats": "sum,p50", "fill": "null"}
    with_stats = (await client.get(url, params=hours)).json()
    assert list(with_stats[0]) == ["time", "count", "min", "max", "avg", "last", "sum", "p50"]
    some = (await client.get(url, params={"field": "t.c", "from": "2026-01-01", "points": 10})).json()
    assert len(some) == 10
    assert (await client.get(url, params={**hours, "from": "2020-01-01"})).json()["code"] == "invalid_query"
    for more in ({"stats": "sum"}, {"fill": "null"}, {"points": 5}, {"field": "f", "bucket": "1m", "stats": "x"}):
        assert (await client.get(url, params=more)).status_code == 422
    for bad in ({"from": "x"}, {"to": "-1x"}, {"bucket": "1m"}, {"field": "f", "bucket": "0m"}):
        assert (await client.get(url, params=bad)).status_code == 422


async def test_quarantine(client, core):
    """List, show with the exact bytes, replay."""
    await store(core, "a", b"\xff{", b'{"ok": 1}', b"")
    listed = (await client.get("/api/v1/quarantine")).json()
    assert [(item["reason"], item["bytes"]) for item in listed] == [("utf8", 2), ("empty", 0)]
    shown = (await client.get(f"/api/v1/quarantine/{listed[0]['id']}")).json()
    assert base64.b64decode(shown["payload_base64"]) == b"\xff{"
    assert (await client.post("/api/v1/quarantine/replay", json={"ids": None})).json() == {"stored": 0, "kept": 2}


async def test_quarantine_by_reason_and_edited(client, core):
    """In bulk by reason, one with another payload; a summary of all."""
    url = "/api/v1/quarantine"
    await store(core, "a", b"\xff{", b"", b"", b"{nope")
    assert [item["reason"] for item in (await client.get(url, params={"reason": "empty"})).json()] == ["empty"] * 2
    assert (await client.post(f"{url}/replay", json={"reason": "empty"})).json() == {"stored": 0, "kept": 2}
    broken = (await client.get(url, params={"reason": "not_json"})).json()[0]["id"]
    assert (await client.get(f"{url}/{broken}")).json()["payload_hex"] == "7b 6e 6f 70 65"
    payload = base64.b64encode(b'{"repaired": 1}').decode()
    assert (await client.post(f"{url}/replay", json={"payload_base64": payload})).status_code == 422
    edit = {"ids": [broken], "payload_base64": "%"}
    assert (await client.post(f"{url}/replay", json=edit)).json()["detail"] == "payload_base64: not base64"
    edit["payload_base64"] = payload
    assert (await client.post(f"{url}/replay", json=edit)).json() == {"stored": 1, "kept": 0}
    found = (await client.get("/api/v1/devices/a/telemetry/last")).json()
    assert found[0]["fields"] == {"repaired": 1}
    summary = (await client.get(f"{url}/summary")).json()
    assert [(one["reason"], one["messages"], one["bytes"], one["expired"]) for one in summary] == [
        ("empty", 2, 0, 0),
        ("utf8", 1, 2, 0),
    ]


async def test_quarantined_messages_are_read_as_streams_are_defined_now(client, core):
    """After a definition is mended, a replay stores what it could not read before."""
    await store(core, "a", b"21.5")
    assert (await client.get("/api/v1/quarantine")).json()[0]["reason"] == "not_object"
    given = {"filter": "devices/{device}/telemetry", "codec": "text", "stream": "default"}
    made = await client.put("/api/v1/streams/numbers", json=given)
    assert (made.status_code, made.json()["version"], made.headers["ETag"]) == (200, 1, '"1"')
    assert (await client.post("/api/v1/quarantine/replay", json={})).json() == {"stored": 1, "kept": 0}
    assert (await client.get("/api/v1/devices/a/telemetry/last")).json()[0]["fields"] == {"value": 21.5}


async def test_streams(client, core):
    """Defined, changed, listed, deleted; a wrong one is refused by its key."""
    given = {"filter": "plant/{device}", "codec": "cbor", "fields": {"t": {"unit": "\u00b0C"}}}
    assert (await client.put("/api/v1/streams/p", json=given)).json()["definition"] == given
    stale = await client.put("/api/v1/streams/p", json=given, headers={"If-Match": '"5"'})
    assert (stale.status_code, stale.json()["code"]) == (409, "stale")
    wrong = await client.put("/api/v1/streams/p", json={"filter": "a", "codec": "xml"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_stream")
    assert "stream p: codec: no codec 'xml'" in wrong.json()["detail"]
    assert [one["name"] for one in (await client.get("/api/v1/streams")).json()] == ["p"]
    trial = {"topic": "plant/x", "payload_base64": base64.b64encode(bytes.fromhex("a1617601")).decode()}
    found = (await client.post("/api/v1/codec-trials", json=trial)).json()
    assert (found[0]["definition"], found[0]["chosen"], found[0]["readings"][0]["fields"]) == ("p", True, {"v": 1})
    assert (await client.delete("/api/v1/streams/p")).json() == {"name": "p"}
    assert (await client.get("/api/v1/streams/p")).status_code == 404


async def test_tail_streams_until_the_server_stops(client, core):
    """Lines come as they happen."""
    async with client.stream("GET", "/api/v1/tail", params={"device": "a"}) as answer:
        lines = answer.aiter_lines()
        assert "watching" in await anext(lines)
        await store(core, "a", b'{"v": 1}')
        assert '"fields":{"v":1}' in await anext(lines)
        core.tail.close()
        assert [line async for line in lines] == []


async def test_readyz_says_why_not(client, core):
    """While the store can't write, nothing should be sent here."""
    core.pipeline.failing = "the disk is full"
    answer = await client.get("/readyz")
    assert (answer.status_code, "the disk is full" in answer.text) == (503, True)
    core.pipeline.failing = None
    assert (await client.get("/readyz")).text == "ready\n"


async def test_readyz_lists_background_work_that_fails(client, core):
    """It stays ready; each line, or entry of the JSON, names the work, since when it fails, how often, and why."""
    health = core.background.add("seal")
    health.fail(OSError("disk full\n\udc80"), T, known=True)
    health.fail(ZeroDivisionError("a mistake"), T + 5, known=False)
    answer = await client.get("/readyz")
    line = f"failing: seal since {iso(T)}, 2 times: ZeroDivisionError('a mistake')"
    assert (answer.status_code, answer.text) == (200, f"ready\n{line}\n")
    health.fail(OSError("disk full\n\udc80"), T + 9, known=True)
    core.pipeline.failing = "disk full"
    answer = await client.get("/readyz", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()) == (
        503,
        {
            "ready": False,
            "reason": "the store can't write: disk full",
            "failing": [{"work": "seal", "since": iso(T), "failures": 3, "error": "disk full \\udc80"}],
        },
    )
    core.pipeline.failing = None
    health.succeed(T + 10)
    assert (await client.get("/readyz")).text == "ready\n"


async def test_one_scrape_is_one_instant(client, core):
    """The accounting identity holds in every scrape while messages come in."""

    async def load():
        for _ in range(200):
            batch = Batch()
            for n in range(50):
                core.ledger.received("a", 1, 2, now_us())
                batch.append("a", "default", T, b"{}" if n % 7 else b"x")
            assert core.pipeline.offer(batch)
            await asyncio.sleep(0)

    loading = asyncio.create_task(load())
    while not loading.done():
        found = metrics((await client.get("/metrics")).text)
        received = sum(value for name, value in found.items() if name.startswith("fleetgate_messages_received"))
        ends = sum(
            value
            for name, value in found.items()
            if name.startswith(
                tuple(
                    f"fleetgate_messages_{end}" for end in ("stored", "quarantined", "in_flight", "rejected", "dropped")
                )
            )
        )
        assert received == ends
        assert found.get('fleetgate_device_messages_total{device="a"}', 0.0) == received
    await loading


def metrics(text: str) -> dict[str, float]:
    """Sample lines of a scrape."""
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line and not line.startswith("#")
    }


async def test_all_rows_of_a_device_that_has_none(client):
    """An empty answer."""
    _key, csr = signing_request("pump-1")
    await client.post("/api/v1/devices", json={"name": "pump-1", "csr": csr.decode()})
    answer = await client.get("/api/v1/devices/pump-1/telemetry", params={"from": "-1h"})
    assert (answer.status_code, answer.json()) == (200, [])


async def test_an_application_is_no_device(client, core):
    """Deleting or retiring one, there or not, touches no device of that name, nor what it has sent."""
    names = {"pump-1": "devices", "back": "applications"}
    for name, plural in names.items():
        csr = signing_request(name)[1].decode()
        assert (await client.post(f"/api/v1/{plural}", json={"name": name, "csr": csr})).status_code == 201
        other = "devices" if plural == "applications" else "applications"
        taken = await client.post(f"/api/v1/{other}", json={"name": name, "csr": signing_request(name)[1].decode()})
        assert (taken.status_code, "a name belongs to one device" in taken.json()["detail"]) == (409, True)
    await store(core, "pump-1", b'{"v": 1}', b"bad")
    await store(core, "back", b'{"v": 1}')
    cases = [
        ("DELETE", "/applications/pump-1", {}, 404),
        ("DELETE", "/applications/pump-1", {"purge": True}, 422),
        ("POST", "/applications/pump-1/retire", {"purge": True}, 422),
        ("POST", "/applications/pump-1/revoke", {"forget": True}, 404),
        ("DELETE", "/applications/back", {"purge": True}, 422),
        ("POST", "/applications/back/retire", {"purge": True}, 422),
        ("DELETE", "/devices/nobody", {"purge": True}, 404),
        ("POST", "/devices/nobody/retire", {"purge": True}, 404),
        ("POST", "/devices/back/retire", {"purge": True}, 404),
        ("POST", "/devices/back/disable", {}, 404),
        ("GET", "/devices/back", {}, 404),
        ("GET", "/applications/pump-1", {}, 404),
    ]
    for method, path, params, status in cases:
        answer = await client.request(method, f"/api/v1{path}", params=params)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), path
        if status == 422:
            assert "an application has no telemetry" in answer.json()["detail"]
    assert (await client.get("/api/v1/devices/pump-1")).json()["state"] == "registered"
    assert (await client.get("/api/v1/applications/back")).json()["state"] == "active"
    assert len(await core.store.newest(Selection("pump-1"), 10)) == 1
    assert (await client.delete("/api/v1/applications/back")).json() == {"name": "back", "purged": 0}
    assert len(await core.store.newest(Selection("back"), 10)) == 1
    assert len(await core.store.quarantined()) == 1
    assert (await client.delete("/api/v1/devices/back", params={"purge": True})).json()["purged"] >= 1, "what is left"
    assert (await client.delete("/api/v1/devices/back", params={"purge": True})).status_code == 404


async def test_only_the_version_that_was_seen_is_deleted(client, core):
    """If-Match, of devices and applications."""
    for name, plural in (("pump-1", "devices"), ("back", "applications")):
        csr = signing_request(name)[1].decode()
        await client.post(f"/api/v1/{plural}", json={"name": name, "csr": csr})
        await client.post(f"/api/v1/{plural}/{name}/disable")
        for tag, status in (('"1"', 409), ("1", 422), ('"2"', 200)):
            answer = await client.delete(f"/api/v1/{plural}/{name}", headers={"If-Match": tag})
            assert answer.status_code == status, answer.text


async def test_what_is_replayed_at_once(core):
    """Two replays store a message once; none brings back what is erased meanwhile."""
    items = [
        Quarantined(T + n, name, "default", "not_json", "", b'{"v": 1}', f"devices/{name}/telemetry")
        for n in range(300)
        for name in ("a", "b")
    ]
    await core.store.write(Batch(), items)
    streams, lock = core.streams.streams, core.store.replaying
    replays = [replay(core.store, streams, core.limits, lock=lock) for _ in range(3)]
    _erased, *found = await asyncio.gather(core.devices.delete("b", erase=True), *replays)
    assert sum(one.stored for one in found) >= 300
    assert sum([len(rows) async for rows in core.store.rows(Selection("a"))]) == 300
    assert not await core.store.has("b")
    assert [row async for rows in core.store.rows(Selection("b")) for row in rows] == []
