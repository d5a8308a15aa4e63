"""The API of the fleet: what is known about devices, types, groups, queries."""

import pytest

from fleet.authority import signing_request
from fleet.identity import Kind
from fleet.policy.compiled import Caller
from fleetgate.http.devices import NewDevice
from tests.fleetgate.test_http import client, core

__all__ = ["client", "core"]


async def add(client, name: str, **known):
    _key, csr = signing_request(name)
    answer = await client.post("/api/v1/devices", json={"name": name, "csr": csr.decode(), **known})
    assert answer.status_code == 201, answer.text
    return answer.json()["device"]


async def test_what_is_known_about_a_device(client):
    """Given when it is registered, changed in part, shown with its version in ETag."""
    attributes = {"fw": "1.0", "n": 3, "on": True}
    made = await add(client, "p1", display_name="Pump", site="hall", attributes=attributes, tags=["b", "a"])
    assert (made["state"], made["version"], made["tags"], made["groups"]) == ("registered", 1, ["a", "b"], [])
    assert made["attributes"] == attributes
    change = {"attributes": {"fw": "1.1", "n": None}, "notes": "oiled"}
    answer = await client.patch("/api/v1/devices/p1", json=change, headers={"If-Match": '"1"'})
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"2"')
    shown = await client.get("/api/v1/devices/p1")
    assert shown.json() == answer.json()
    assert shown.headers["ETag"] == '"2"'
    found = shown.json()
    assert (found["attributes"], found["notes"], found["site"]) == ({"fw": "1.1", "on": True}, "oiled", "hall")
    stale = await client.patch("/api/v1/devices/p1", json={"tags": []}, headers={"If-Match": '"1"'})
    assert (stale.status_code, "version 2 by now" in stale.json()["detail"]) == (409, True)
    assert (await client.patch("/api/v1/devices/p1", json={"tags": []})).json()["tags"] == []


async def test_the_life_of_a_device(client):
    """Each step by its name; a retired one stays so."""
    await add(client, "p1")
    for action, state in (("disable", "suspended"), ("enable", "active"), ("retire", "retired"), ("retire", "retired")):
        answer = await client.post(f"/api/v1/devices/p1/{action}")
        assert (answer.json()["state"], answer.status_code) == (state, 200)
    assert (await client.post("/api/v1/devices/p1/enable")).status_code == 409
    (certificate,) = (await client.get("/api/v1/devices/p1")).json()["certificates"]
    assert certificate["status"] == "revoked"
    await add(client, "p2")
    assert (await client.post("/api/v1/devices/p2/disable", headers={"If-Match": '"9"'})).status_code == 409
    _key, csr = signing_request("back")
    await client.post("/api/v1/applications", json={"name": "back", "csr": csr.decode(), "subscribe": ["a/#"]})
    assert (await client.post("/api/v1/applications/back/disable")).json()["state"] == "suspended"
    assert [item["name"] for item in (await client.get("/api/v1/applications")).json()["items"]] == ["back"]


async def test_queries_find_and_count(client):
    """Pages of what is found; counts by a field."""
    for number in range(5):
        await add(client, f"p{number}", attributes={"fw": f"1.{number}"}, tags=["odd"] if number % 2 else [])
    asked = {"query": 'attributes.fw<"1.4" AND NOT tag:odd', "limit": 1}
    page = (await client.get("/api/v1/devices", params=asked)).json()
    assert ([item["name"] for item in page["items"]], page["next"]) == (["p0"], "p0")
    page = (await client.get("/api/v1/devices", params={**asked, "after": "p0", "limit": 2})).json()
    assert ([item["name"] for item in page["items"]], page["next"]) == (["p2"], None)
    assert (await client.get("/api/v1/device-counts")).json() == [{"value": None, "count": 5}]
    by_tag = await client.get("/api/v1/device-counts", params={"query": "name:p*", "by": "tag"})
    assert by_tag.json() == [{"value": "odd", "count": 2}]
    bad = await client.get("/api/v1/devices", params={"query": "tag:a tag:b"})
    assert (bad.status_code, bad.json()["column"]) == (422, 7)
    assert bad.json()["detail"].startswith("query, column 7: expected AND, OR or the end")


async def test_types(client):
    """Made, changed by version, required of devices, deleted when no device has it."""
    body = {"required": {"fw": "string"}, "messages_per_minute": 6, "telemetry": {"type": "object"}}
    made = await client.put("/api/v1/types/pump", json=body)
    assert (made.status_code, made.headers["ETag"], made.json()["required"]) == (200, '"1"', {"fw": "string"})
    again = await client.put("/api/v1/types/pump", json=body, headers={"If-Match": '"1"'})
    assert again.json()["version"] == 2
    assert (await client.put("/api/v1/types/pump", json=body, headers={"If-Match": '"1"'})).status_code == 409
    assert (await client.get("/api/v1/types/pump")).json() == again.json()
    assert (await client.get("/api/v1/types")).json() == [again.json()]
    await add(client, "p1", type="pump", attributes={"fw": "1"})
    missing = await client.patch("/api/v1/devices/p1", json={"attributes": {"fw": None}})
    assert (missing.status_code, "attributes.fw" in missing.json()["detail"]) == (422, True)
    assert (await client.delete("/api/v1/types/pump")).status_code == 409
    await client.patch("/api/v1/devices/p1", json={"type": ""})
    assert (await client.delete("/api/v1/types/pump")).json() == {"name": "pump"}
    assert (await client.get("/api/v1/types/pump")).status_code == 404


async def test_groups(client):
    """Static and dynamic; how many devices they have now."""
    for name in ("p1", "p2"):
        await add(client, name, site="hall" if name == "p1" else "")
    assert (await client.put("/api/v1/groups/all", json={})).json()["devices"] == 0
    dynamic = await client.put("/api/v1/groups/hall", json={"parent": "all", "query": "site:hall"})
    assert (dynamic.json()["devices"], dynamic.json()["version"]) == (1, 1)
    put_in = await client.post("/api/v1/groups/all/devices", json={"devices": ["p2"]})
    assert put_in.json()["devices"] == 2
    assert (await client.get("/api/v1/devices/p1")).json()["groups"] == ["hall"]
    taken = await client.post("/api/v1/groups/all/devices/remove", json={"devices": ["p2"]})
    assert taken.json()["devices"] == 1
    assert [item["name"] for item in (await client.get("/api/v1/groups")).json()] == ["all", "hall"]
    assert (await client.get("/api/v1/groups/hall")).headers["ETag"] == '"1"'
    assert (await client.delete("/api/v1/groups/all")).status_code == 409
    for name in ("hall", "all"):
        assert (await client.delete(f"/api/v1/groups/{name}")).json() == {"name": name}


BAD = [
    ("POST", "/devices", {"name": "a", "color": "red"}, 422, "color"),
    ("POST", "/devices", {"name": "a", "attributes": {"a": [1]}}, 422, "attributes"),
    ("POST", "/devices", {"name": "a", "type": "x"}, 422, "type: no type named 'x'"),
    ("PATCH", "/devices/p1", {"attributes": {"a b": 1}}, 422, "attributes: the key 'a b'"),
    ("PATCH", "/devices/p1", {"version": 1}, 422, "version"),
    ("PATCH", "/devices/p1", {"display_name": "x" * 2000}, 422, "display_name"),
    ("PATCH", "/devices/nobody", {}, 404, "nobody"),
    ("GET", "/device-counts?by=name", None, 422, "counted by"),
    ("PUT", "/types/pump", {"required": {"fw": "text"}}, 422, "required.fw"),
    ("PUT", "/types/a%20b", {}, 422, "name"),
    ("PUT", "/groups/g", {"query": "typo:1"}, 422, "column 1"),
    ("PUT", "/groups/g", {"parent": "nowhere"}, 404, "nowhere"),
    ("POST", "/groups/nowhere/devices", {"devices": ["p1"]}, 404, "nowhere"),
    ("DELETE", "/groups/nowhere", None, 404, "nowhere"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[0]} {case[1]} {case[4]}")
async def test_bad_input_names_the_place(client, case):
    """One clear problem, and nothing half done."""
    method, path, body, status, detail = case
    made = await add(client, "p1")
    answer = await client.request(method, f"/api/v1{path}", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert detail in answer.json()["detail"]
    assert (await client.get("/api/v1/devices/p1")).json() == made
    assert (await client.get("/api/v1/device-counts")).json()[0]["count"] == 1
    assert (await client.get("/api/v1/groups")).json() == []


async def test_a_version_that_is_none(client):
    """If-Match takes an entity tag of ours."""
    await add(client, "p1")
    answer = await client.patch("/api/v1/devices/p1", json={}, headers={"If-Match": "2"})
    assert (answer.status_code, "If-Match" in answer.json()["detail"]) == (422, True)
    assert (await client.patch("/api/v1/devices/p1", json={}, headers={"If-Match": "*"})).status_code == 200


def test_every_field_of_a_device_can_be_given():
    """Whatever can be known can be said when it is registered."""
    assert {"display_name", "type", "site", "notes", "attributes", "tags"} < set(NewDevice.model_fields)


async def operation(client, answer):
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/api/v1/operations/{answer.json()['id']}"
    found = answer.json()
    while found["state"] == "running":
        found = (await client.get(answer.headers["Location"])).json()
    return found


async def test_a_list_is_imported_as_an_operation(client):
    """It says how far it is, and what came of it."""
    csv = "name,site\n" + "".join(f"p{number},hall\n" for number in range(500))
    sent = {"content": csv, "headers": {"Content-Type": "text/csv; charset=utf-8"}}
    tried = await operation(client, await client.post("/api/v1/device-imports?dry_run=true", **sent))
    assert (tried["state"], tried["result"]["added"], tried["result"]["dry_run"]) == ("done", 500, True)
    assert (await client.get("/api/v1/device-counts")).json()[0]["count"] == 0
    done = await operation(client, await client.post("/api/v1/device-imports", **sent))
    assert (done["done"], done["total"], done["result"]["bad"]) == (500, 500, [])
    again = await operation(client, await client.post("/api/v1/device-imports", **sent))
    assert (again["result"]["added"], again["result"]["bad_count"]) == (0, 500)
    assert again["result"]["bad"][0] == {"line": 2, "name": "p0", "problem": "device p0 is registered already"}
    header = await operation(client, await client.post("/api/v1/device-imports", **{**sent, "content": "site\n"}))
    assert (header["state"], header["problem"]) == ("failed", "line 1: there is no column 'name'")
    broken = await client.post("/api/v1/device-imports", **{**sent, "content": b"name\n\xff\n"})
    assert (broken.status_code, broken.json()["detail"]) == (422, "line 2: not UTF-8")
    other = await client.post("/api/v1/device-imports", content="{}", headers={"Content-Type": "application/json"})
    assert other.status_code == 415
    assert (await client.get("/api/v1/operations/nothing")).status_code == 404


async def test_a_session_goes_with_the_certificates_by_choice(client, core):
    """What was kept for a device that is revoked stays, unless it is to be forgotten."""
    await add(client, "p1")
    sessions = core.broker.engine.sessions.by_client_id
    core.broker.create_offline_session("p1")
    await client.post("/api/v1/devices/p1/revoke")
    assert "p1" in sessions
    assert (await client.post("/api/v1/devices/p1/revoke", params={"forget": True})).status_code == 200
    assert "p1" not in sessions


async def test_policies(client):
    """Made, versioned, attached, asked; each problem names its place."""
    await add(client, "p1")
    answer = await client.put("/api/v1/policies/p", json={"document": "- {deny: publish, to: 'x/*', name: no}"})
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')
    attached = {"kind": "device", "target": "p1"}
    found = (await client.post("/api/v1/policies/p/attachments", json=attached)).json()
    assert (found["attached"], found["default_version"], found["versions"]) == ([attached], 1, [1])
    asked = {"device": "p1", "publish": "x/y"}
    expected = {"decision": "deny", "reason": "explicit_deny", "policy": "p", "version": 1, "statement": "no"}
    assert (await client.get("/api/v1/explain", params=asked)).json() == expected
    body = {"document": "- {allow: publish, to: 'x/*'}", "description": "two", "default": False}
    stale = await client.put("/api/v1/policies/p", json=body, headers={"If-Match": '"1"'})
    assert (stale.status_code, "version 2 by now" in stale.json()["detail"]) == (409, True)
    await client.put("/api/v1/policies/p", json=body)
    assert (await client.get("/api/v1/explain", params=asked)).json()["decision"] == "deny"
    shown = (await client.get("/api/v1/policies/p/versions/2")).json()
    assert (shown["default"], shown["document"]["Statement"][0]["Effect"]) == (False, "Allow")
    found = (await client.post("/api/v1/policies/p/default", json={"version": 2})).json()
    assert (found["default_version"], found["description"]) == (2, "two")
    expected = {"decision": "allow", "reason": "allowed", "policy": "p", "version": 2, "statement": "Statement[0]"}
    assert (await client.get("/api/v1/explain", params=asked)).json() == expected
    assert (await client.delete("/api/v1/policies/p/versions/1")).json()["versions"] == [2]
    assert (await client.delete("/api/v1/policies/p")).status_code == 409
    await client.post("/api/v1/policies/p/attachments/remove", json=attached)
    assert (await client.delete("/api/v1/policies/p")).json() == {"name": "p"}
    assert [one["name"] for one in (await client.get("/api/v1/policies")).json()] == ["default"]
    assert (await client.get("/api/v1/policies/default")).json()["attached"] == [{"kind": "all", "target": ""}]


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({}, 422, "exactly one of them is needed"),
        ({"publish": "a", "subscribe": "b"}, 422, "exactly one of them is needed"),
        ({"publish": "a/+"}, 422, "publish: 'a/+': a topic name has no + and no #"),
        ({"publish": ""}, 422, "publish: ''"),
        ({"subscribe": "a/#/b"}, 422, "# must be the whole last level"),
        ({"publish": "a", "time": "soon"}, 422, "time: 'soon'"),
        ({"publish": "a", "device": "p9"}, 404, "no device named 'p9'"),
        ({"publish": "open"}, 422, "it depends on source.address, which is not known"),
    ],
)
async def test_what_can_not_be_explained(client, asked: dict, status: int, message: str):
    """One clear line."""
    await add(client, "p1")
    text = "- {allow: publish, to: open, if: {IpAddress: {source.address: 10.0.0.0/8}}}"
    await client.put("/api/v1/policies/p", json={"document": text})
    await client.post("/api/v1/policies/p/attachments", json={"kind": "all"})
    answer = await client.get("/api/v1/explain", params={"device": "p1", **asked})
    assert answer.status_code == status
    assert message in answer.json()["detail"]


async def test_explanations(client, core):
    """With facts that are given, of devices that are not let in, and of those that are connected nowhere."""
    await add(client, "p1")
    (entry,) = core.registry.certificates(core.registry.get(Kind.DEVICE, "p1"))
    text = """
- {allow: publish, to: near, if: {IpAddress: {source.address: 10.0.0.0/8}}}
- {allow: publish, to: old, if: {DateLessThan: {time: 2020-01-01}}}
- {allow: publish, to: mine, if: {StringEquals: {certificate.fingerprint: "F", listener: wss, tls.version: TLSv1.2}}}
""".replace('"F"', entry.fingerprint)
    await client.put("/api/v1/policies/p", json={"document": text})
    await client.post("/api/v1/policies/p/attachments", json={"kind": "all"})
    mine = {"certificate": entry.fingerprint.upper(), "listener": "wss", "tls": "TLSv1.2"}
    for asked, decision, reason in (
        ({"publish": "near", "source_address": "10.1.1.1"}, "allow", "allowed"),
        ({"publish": "near", "source_address": "11.1.1.1"}, "deny", "not_allowed"),
        ({"publish": "old"}, "deny", "not_allowed"),
        ({"publish": "old", "time": "2019-06-01T00:00:00Z"}, "allow", "allowed"),
        ({"publish": "mine", **mine}, "allow", "allowed"),
        ({"publish": "$SYS/x"}, "deny", "not_allowed"),
        ({"retain": "devices/p1/x"}, "allow", "allowed"),
        ({"retain": "old"}, "deny", "not_allowed"),
        ({"subscribe": "$share/g/devices/p1/#"}, "allow", "allowed"),
        ({"receive": "devices/p1/x"}, "allow", "allowed"),
        ({"connect": ""}, "allow", "allowed"),
        ({"connect": "p2"}, "deny", "not_allowed"),
        ({"connect": "", "certificate": "00"}, "deny", "no_certificate"),
    ):
        answer = (await client.get("/api/v1/explain", params={"device": "p1", **asked})).json()
        assert (answer["decision"], answer["reason"]) == (decision, reason), asked
    for act, reason in (("disable", "disabled"), ("enable", "allowed"), ("revoke", "revoked"), ("retire", "retired")):
        await client.post(f"/api/v1/devices/p1/{act}")
        answer = (await client.get("/api/v1/explain", params={"device": "p1", "connect": ""})).json()
        assert answer["reason"] == reason


async def test_a_simulation_needs_to_know_where(client, core):
    """A policy that is attached to nothing has to be told what it would be attached to."""
    await add(client, "p1")
    core.policies.rights(Caller("p1", "p1"), None).may_publish("devices/p1/x")
    body = {"name": "new", "document": "- {deny: '*', to: '*', name: all}"}
    answer = await client.post("/api/v1/policy-simulations", json=body)
    assert (answer.status_code, "say what it would be attached to" in answer.json()["detail"]) == (422, True)
    found = (await client.post("/api/v1/policy-simulations", json={**body, "attach": {"kind": "all"}})).json()
    (change,) = found["changes"]
    assert (change["resource"], change["was"]["policy"], change["would_be"]["statement"]) == (
        "devices/p1/x",
        "default",
        "all",
    )
    for attach, status in (({"kind": "type", "target": "t"}, 404), ({"kind": "all", "target": "t"}, 422)):
        answer = await client.post("/api/v1/policy-simulations", json={**body, "attach": attach})
        assert answer.status_code == status
    past = (await client.get("/api/v1/decisions", params={"all": True, "since": "-1h"})).json()
    assert [(one["resource"], one["decision"], one["times"]) for one in past] == [("devices/p1/x", "allow", 1)]


async def test_quotas_and_usage(client, core):
    """Set for all and for one, listed, taken away; usage by day, with the quota that counts."""
    await add(client, "p1")
    body = {"messages_per_minute": 10, "over": "slow"}
    answer = await client.put("/api/v1/quota", json=body)
    assert (answer.status_code, answer.json()["device"]) == (200, None)
    assert (await client.put("/api/v1/devices/p1/quota", json={"bytes_per_day": 5})).json()["over"] == "reject"
    assert [one["device"] for one in (await client.get("/api/v1/quotas")).json()] == [None, "p1"]
    core.ledger.received("p1", 1, 100, 0)
    found = (await client.get("/api/v1/devices/p1/usage")).json()
    assert (found["quota"]["bytes_per_day"], found["days"][0]["messages"], found["days"][0]["bytes"]) == (5, 1, 100)
    assert (await client.delete("/api/v1/devices/p1/quota")).json() == {"device": "p1", "type": None}
    assert (await client.get("/api/v1/devices/p1/usage")).json()["quota"]["messages_per_minute"] == 10
    assert (await client.delete("/api/v1/quota")).status_code == 200
    assert (await client.get("/api/v1/devices/p1/usage")).json()["quota"] is None
    for path, given, status in (
        ("/quota", {}, 422),
        ("/quota", {"messages_per_minute": 0}, 422),
        ("/quota", {"messages_per_hour": 1}, 422),
        ("/devices/p9/quota", body, 404),
    ):
        assert (await client.put(f"/api/v1{path}", json=given)).status_code == status
    assert (await client.get("/api/v1/devices/p9/usage")).status_code == 404
