"""Requests that are repeated, and one action on many devices."""

import asyncio
import json

from sqlalchemy import update

from fleet.authority import signing_request
from fleet.registry.schema import idempotency
from tests.fleetgate.test_access import Person, entries, operator
from tests.fleetgate.test_fleet_api import add
from tests.fleetgate.test_http import client, core, store

__all__ = ["client", "core"]

KEY = {"Idempotency-Key": "first"}


def device(name: str = "p1") -> dict:
    return {"name": name, "csr": signing_request(name)[1].decode()}


async def test_a_repeated_request_is_done_once(client, core):
    """And answered the same: also after a day has begun, not after one has passed; of each caller for itself."""
    body = device()
    first = await client.post("/api/v1/devices", json=body, headers=KEY)
    again = await client.post("/api/v1/devices", json=body, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    assert (await client.post("/api/v1/devices", json=body)).status_code == 409
    other = await client.post("/api/v1/devices", json=device("p2"), headers=KEY)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key")
    assert len([entry for entry in await entries(client, action="device.add") if entry["outcome"] == "done"]) == 1
    anna = await operator(client, "anna", "operator")
    assert (await anna("POST", "/devices", json=body, headers=KEY)).status_code == 409
    async with core.registry.database.transaction() as connection:
        await connection.execute(update(idempotency).values(at=0))
    assert (await client.post("/api/v1/devices", json=body, headers=KEY)).status_code == 409
    assert (await client.post("/api/v1/devices", json=device("p3"), headers=KEY)).status_code == 201


async def test_an_answer_is_for_who_may_do_it(client):
    """With a token of the same operator that may less, what was answered is not given out again."""
    anna = await operator(client, "anna", "operator")
    body = device()
    assert (await anna("POST", "/devices", json=body, headers=KEY)).status_code == 201
    made = await anna("POST", "/operators/anna/tokens", json={"role": "viewer"})
    viewer = Person(client, "anna", made.json()["token"])
    answer = await viewer("POST", "/devices", json=body, headers=KEY)
    assert (answer.status_code, "csr" in answer.text) == (409, False)
    assert (await anna("POST", "/devices", json=body, headers=KEY)).headers["idempotency-replayed"] == "true"


async def test_what_is_asked_for_is_in_the_log(client):
    """In whichever form of JSON it came."""
    for number, kind in enumerate(("application/json; charset=utf-8", "Application/JSON", "application/x+json")):
        body = json.dumps(device(f"p{number}"))
        answer = await client.post("/api/v1/devices", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 201, kind
        (entry,) = await entries(client, action="device.add", target=f"device:p{number}")
        assert entry["outcome"] == "done"


async def test_what_failed_may_be_tried_again(client):
    """With the same key, until it goes well."""
    body = {**device(), "type": "pump"}
    assert (await client.post("/api/v1/devices", json=body, headers=KEY)).status_code == 422
    await client.put("/api/v1/types/pump", json={})
    assert (await client.post("/api/v1/devices", json=body, headers=KEY)).status_code == 201


async def test_keys(client):
    """What is none; one that is in use; secrets are not kept; other methods know none."""
    for key in ("", "a b", "x" * 256, "\x7f"):
        answer = await client.post("/api/v1/devices", json=device(), headers={"Idempotency-Key": key})
        assert (answer.status_code, "Idempotency-Key" in answer.json()["detail"]) == (422, True)
    body = device()
    found = await asyncio.gather(*(client.post("/api/v1/devices", json=body, headers=KEY) for _ in range(5)))
    assert {answer.status_code for answer in found} <= {201, 409}
    assert sum(answer.status_code == 201 and "idempotency-replayed" not in answer.headers for answer in found) == 1
    await client.put("/api/v1/operators/anna", json={"role": "viewer"})
    tokens = [(await client.post("/api/v1/operators/anna/tokens", json={}, headers=KEY)).json() for _ in range(2)]
    assert tokens[0]["token"] != tokens[1]["token"]
    large = {"Content-Type": "application/json", **KEY}
    answer = await client.post("/api/v1/devices", content=b" " * (1024 * 1024 + 1), headers=large)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert (await client.get("/api/v1/devices", headers=KEY)).status_code == 200


async def finished(client, answer) -> dict:
    assert answer.status_code == 202, answer.text
    path = answer.headers["Location"]

    async def done():
        found = (await client.get(path)).json()
        return found if found["state"] != "running" else None

    for _ in range(500):
        if (found := await done()) is not None:
            assert found["state"] == "done", found
            return found["result"]
        await asyncio.sleep(0.01)
    raise TimeoutError(path)


async def test_one_action_on_many_devices(client, core):
    """That are named, or that a query finds; each in the log as done by who asked; what failed is said."""
    for name, site in (("p1", "hall"), ("p2", "hall"), ("p3", "yard")):
        await add(client, name, site=site)
    anna = await operator(client, "anna", "operator", sites=["hall"])
    tried = await anna("POST", "/device-actions", json={"action": "retire", "query": "", "dry_run": True})
    found = await finished(client, tried)
    assert (found["names"], found["done"], found["dry_run"]) == (["p1", "p2"], 0, True)
    bert = await operator(client, "bert", "viewer", sites=["yard"])
    shown = tried.headers["Location"].removeprefix("/api/v1")
    assert [(await who("GET", shown)).status_code for who in (anna, bert)] == [200, 404]
    done = await finished(client, await anna("POST", "/device-actions", json={"action": "disable", "query": ""}))
    assert (done["devices"], done["done"], done["failed"]) == (2, 2, [])
    states = [(await client.get(f"/api/v1/devices/{name}")).json()["state"] for name in ("p1", "p2", "p3")]
    assert states == ["suspended", "suspended", "registered"]
    found = await entries(client, action="device.disable")
    assert [(entry["actor"], entry["targets"], entry["after"]) for entry in found] == [
        ("anna", [["device", "p2"]], {"state": "suspended"}),
        ("anna", [["device", "p1"]], {"state": "suspended"}),
    ]
    await client.post("/api/v1/devices/p1/retire")
    body = {"action": "enable", "devices": ["p1", "p2", "p2"]}
    done = await finished(client, await client.post("/api/v1/device-actions", json=body))
    assert (done["devices"], done["done"], [one["device"] for one in done["failed"]]) == (2, 1, ["p1"])
    body = {"action": "set", "query": "site:hall", "change": {"tags": ["seen"]}}
    assert (await finished(client, await client.post("/api/v1/device-actions", json=body)))["done"] == 2
    assert (await client.get("/api/v1/device-counts", params={"query": "tag:seen"})).json()[0]["count"] == 2
    body = {"action": "revoke", "devices": ["p3"]}
    assert (await finished(client, await client.post("/api/v1/device-actions", json=body)))["done"] == 1
    await store(core, "p3", b'{"v": 1}')
    body = {"action": "retire", "devices": ["p3"], "purge": True}
    refused = await anna("POST", "/device-actions", json={**body, "devices": ["p2"]})
    assert (refused.status_code, "the role admin" in refused.json()["detail"]) == (403, True)
    assert (await finished(client, await client.post("/api/v1/device-actions", json=body)))["done"] == 1
    assert not await core.store.has("p3")
    for bad, status in (
        ({"action": "disable", "query": "", "purge": True}, 422),
        ({"action": "disable"}, 422),
        ({"action": "disable", "devices": [], "query": ""}, 422),
        ({"action": "set", "query": ""}, 422),
        ({"action": "disable", "query": "", "change": {}}, 422),
        ({"action": "disable", "devices": ["nobody"]}, 404),
        ({"action": "disable", "query": "x y"}, 422),
    ):
        assert (await client.post("/api/v1/device-actions", json=bad)).status_code == status
    assert (await anna("POST", "/device-actions", json={"action": "disable", "devices": ["p3"]})).status_code == 404
    moved = {"action": "set", "query": "", "change": {"site": "roof"}}
    assert (await anna("POST", "/device-actions", json=moved)).status_code == 403


async def test_a_list_of_devices_is_in_the_log(client):
    """Each device that came by it, with who brought it; nothing of a list of which nothing was registered."""
    headers = {"Content-Type": "text/csv"}
    path = "/api/v1/device-imports"
    lines = "name,site\n" + "".join(f"d{number},hall\n" for number in range(3))
    tried = await client.post(path, params={"dry_run": True}, content=lines, headers=headers)
    assert (await finished(client, tried))["added"] == 3
    assert await entries(client, target="device:d1") == []
    done = await finished(client, await client.post(path, content=lines, headers=headers))
    assert done["added"] == 3
    (entry,) = await entries(client, target="device:d1")
    assert (entry["actor"], entry["action"], entry["targets"]) == (
        "admin", "device.add", [["device", "d0"], ["device", "d1"], ["device", "d2"]],
    )  # fmt: skip
    bad = await finished(client, await client.post(path, content="name\nd3\nd1\n", headers=headers))
    assert bad["added"] == 0
    assert await entries(client, target="device:d3") == []
