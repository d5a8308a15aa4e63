"""Who may call what, and that each change is in the audit log."""

import httpx
import pytest

from fleet.operators.model import Role
from fleetgate.http.actions import ACTIONS, Reach
from fleetgate.http.api import create_api
from fleetgate.http.server import HttpServer
from tests.fleetgate.test_fleet_api import add
from tests.fleetgate.test_http import client, core, store

__all__ = ["client", "core"]


class Person:
    """An operator with a token."""

    def __init__(self, client, name: str, token: str) -> None:
        self._client = client
        self.name = name
        self.headers = {"Authorization": f"Bearer {token}"}

    async def __call__(self, method: str, path: str, **more):
        more["headers"] = {**self.headers, **more.get("headers", {})}
        return await self._client.request(method, f"/api/v1{path}", **more)


async def operator(client, name: str, role: str, **more) -> Person:
    made = await client.put(f"/api/v1/operators/{name}", json={"role": role, **more})
    assert made.status_code == 200, made.text
    token = await client.post(f"/api/v1/operators/{name}/tokens", json={})
    return Person(client, name, token.json()["token"])


async def entries(client, **asked) -> list[dict]:
    return (await client.get("/api/v1/audit", params=asked)).json()["items"]


def path_of(route: str) -> str:
    for part, value in (
        ("{name}", "pump-1"),
        ("{fingerprint}", "0" * 64),
        ("{number}", "1"),
        ("{operation}", "x"),
        ("{entry:int}", "1"),
        ("{token}", "x"),
        ("{client_id:path}", "x"),
    ):
        route = route.replace(part, value)
    assert "{" not in route
    return route


STREAMS = {"GET /changes", "GET /tail", "GET /packets"}


@pytest.mark.parametrize("role", list(Role))
async def test_every_route_asks_for_its_role(client, role: Role):
    """Who has less is refused, whatever is asked; who has it is not. Without a credential nothing answers."""
    await add(client, "pump-1")
    person = await operator(client, "anna", role)
    for route, action in ACTIONS.items():
        method, _, path = route.partition(" ")
        if route in STREAMS or route == "POST /session" or (action.reach is Reach.SELF):
            continue
        answer = await person(method, path_of(path), json={} if method in {"POST", "PUT", "PATCH"} else None)
        assert (answer.status_code == 403) is not role.covers(action.role), (route, answer.text)
        if answer.status_code == 403:
            assert action.name in answer.json()["detail"]
        bare = await client.request(method, f"/api/v1{path_of(path)}", headers={"Authorization": ""})
        assert bare.status_code == 401, route
        if route == "DELETE /devices/{name}" and role is Role.ADMIN:
            await add(client, "pump-1")


async def test_who_has_a_part_of_the_fleet(client):
    """Sees and does what is there, and nothing else: other devices are not there."""
    await add(client, "p1", site="hall", tags=["a"])
    await add(client, "p2", site="yard")
    await add(client, "p3", site="roof")
    await client.put("/api/v1/groups/pumps", json={})
    await client.put("/api/v1/groups/small", json={"parent": "pumps"})
    await client.post("/api/v1/groups/small/devices", json={"devices": ["p2"]})
    anna = await operator(client, "anna", "operator", sites=["hall"], groups=["pumps"])
    listed = (await anna("GET", "/devices")).json()["items"]
    assert [device["name"] for device in listed] == ["p1", "p2"]
    found = (await anna("GET", "/devices", params={"query": "NOT site:hall OR name:p3"})).json()["items"]
    assert [device["name"] for device in found] == ["p2"]
    assert (await anna("GET", "/device-counts")).json() == [{"value": None, "count": 2}]
    by_site = (await anna("GET", "/device-counts", params={"by": "site"})).json()
    assert by_site == [{"value": "hall", "count": 1}, {"value": "yard", "count": 1}]
    for method, path, more in (
        ("GET", "/devices/p3", {}),
        ("GET", "/devices/p3/telemetry", {}),
        ("POST", "/devices/p3/retire", {}),
        ("PATCH", "/devices/p3", {"json": {"notes": "x"}}),
        ("GET", "/explain", {"params": {"device": "p3", "connect": ""}}),
        ("GET", "/tail", {"params": {"device": "p3"}}),
    ):
        answer = await anna(method, path, **more)
        assert (answer.status_code, answer.json()["detail"]) == (404, "no device named 'p3'"), path
    fingerprint = (await client.get("/api/v1/devices/p3")).json()["certificates"][0]["fingerprint"]
    assert (await anna("GET", f"/certificates/{fingerprint}")).status_code == 404
    assert (await anna("POST", f"/certificates/{fingerprint}/revoke")).status_code == 404
    mine = (await client.get("/api/v1/devices/p1")).json()["certificates"][0]["fingerprint"]
    assert (await anna("POST", f"/certificates/{mine}/revoke")).status_code == 200
    assert (await anna("POST", "/devices/p2/disable")).json()["state"] == "suspended"
    for method, path, more in (
        ("GET", "/tail", {}),
        ("GET", "/connections", {}),
        ("POST", "/sql", {"json": {"sql": "SELECT 1"}}),
        ("POST", "/groups/pumps/devices", {"json": {"devices": ["p3"]}}),
        ("PATCH", "/devices/p1", {"json": {"site": "roof"}}),
        ("POST", "/devices", {"json": {"name": "p4", "site": "roof"}}),
        ("POST", "/devices", {"json": {"name": "p4"}}),
        ("POST", "/messages", {"json": {"topic": "a", "payload": ""}}),
    ):
        assert (await anna(method, path, **more)).status_code == 403, path
    await client.delete("/api/v1/groups/small")
    assert [device["name"] for device in (await anna("GET", "/devices")).json()["items"]] == ["p1"]


async def test_a_token_is_at_most_its_operator(client):
    """And makes none that may more than it does."""
    await add(client, "p1", site="hall")
    await add(client, "p2", site="yard")
    anna = await operator(client, "anna", "operator")
    made = await anna("POST", "/operators/anna/tokens", json={"role": "viewer", "sites": ["hall"], "days": 1})
    assert (made.status_code, made.json()["role"]) == (201, "viewer")
    script = Person(client, "anna", made.json()["token"])
    assert (await script("GET", "/me")).json()["scopes"] == [{"groups": [], "sites": ["hall"]}]
    assert [device["name"] for device in (await script("GET", "/devices")).json()["items"]] == ["p1"]
    for body in ({"role": "operator"}, {"role": "viewer"}, {}):
        assert (await script("POST", "/operators/anna/tokens", json=body)).status_code == 403
    assert (await anna("POST", "/operators/anna/tokens", json={"role": "admin"})).status_code == 403
    await operator(client, "bert", "viewer")
    for method, path in (
        ("GET", "/operators/bert"),
        ("GET", "/operators/bert/tokens"),
        ("POST", "/operators/bert/tokens"),
        ("PUT", "/operators/bert/password"),
        ("GET", "/operators"),
        ("PUT", "/operators/anna"),
    ):
        body = {"password": "correct horse"} if path.endswith("password") else {"role": "admin"}
        answer = await anna(method, path, json=body if method != "GET" else None)
        assert answer.status_code == 403, path
    whole = Person(client, "anna", (await anna("POST", "/operators/anna/tokens", json={"days": 1})).json()["token"])
    for days in (None, 90):
        longer = (await whole("POST", "/operators/anna/tokens", json={"days": days})).json()
        assert longer["expires"] <= (await whole("GET", "/operators/anna/tokens")).json()[2]["expires"]
        await anna("DELETE", f"/operators/anna/tokens/{longer['id']}")
    await anna("DELETE", f"/operators/anna/tokens/{whole.headers['Authorization'].split('_')[1]}")
    tokens = (await anna("GET", "/operators/anna/tokens")).json()
    assert [token["last_used"] is not None for token in tokens] == [True, True]
    assert (await anna("DELETE", f"/operators/anna/tokens/{made.json()['id']}")).status_code == 200
    assert (await script("GET", "/me")).status_code == 401
    other = (await client.get("/api/v1/operators/bert/tokens")).json()[0]["id"]
    assert (await anna("DELETE", f"/operators/anna/tokens/{other}")).status_code == 404


async def test_who_retires_a_device_may_not_erase_what_it_sent(client, core):
    """That is an admin's, also later."""
    anna = await operator(client, "anna", "operator")
    await add(client, "p1")
    await store(core, "p1", b'{"v": 1}')
    refused = await anna("POST", "/devices/p1/retire", params={"purge": True})
    assert (refused.status_code, "purge: telemetry is erased by the role admin" in refused.text) == (403, True)
    assert (await anna("POST", "/devices/p1/retire")).status_code == 200
    assert await core.store.has("p1")
    assert (await client.post("/api/v1/devices/p1/retire", params={"purge": True})).status_code == 200
    assert not await core.store.has("p1")


async def test_every_change_is_in_the_log(client):
    """Who, by what, to whom, before and after; refused and failed ones too; what only looks is not."""
    anna = await operator(client, "anna", "operator")
    bert = await operator(client, "bert", "viewer")
    await add(client, "p1", site="hall")
    assert (await anna("PATCH", "/devices/p1", json={"notes": "oiled"})).status_code == 200
    assert (await bert("POST", "/devices/p1/retire")).status_code == 403
    assert (await anna("POST", "/devices/p1/retire", headers={"If-Match": '"9"'})).status_code == 409
    assert (await anna("POST", "/devices/p1/retire")).status_code == 200
    assert (await anna("GET", "/devices/p1")).status_code == 200
    assert (await client.delete("/api/v1/devices/p1", params={"purge": True})).status_code == 200
    found = (await entries(client, target="device:p1"))[::-1]
    view = [(entry["actor"], entry["action"], entry["outcome"], entry.get("code")) for entry in found]
    assert view == [
        ("admin", "device.add", "done", None),
        ("anna", "device.set", "done", None),
        ("bert", "device.retire", "refused", "forbidden"),
        ("anna", "device.retire", "failed", "stale"),
        ("anna", "device.retire", "done", None),
        ("admin", "device.delete", "done", None),
    ]
    assert (found[1]["before"], found[1]["after"]) == ({"notes": ""}, {"notes": "oiled"})
    ((fingerprint, revoked),) = found[4]["after"].pop("certificates").items()
    assert (found[4]["before"].pop("certificates"), revoked) == ({fingerprint: "active"}, "revoked")
    assert (found[4]["before"], found[4]["after"]) == ({"state": "registered"}, {"state": "retired"})
    assert found[5]["before"]["site"] == "hall"
    assert found[5]["facts"] == {"query": {"purge": "true"}}
    assert found[1]["credential"].startswith("token ")
    assert (await client.post("/api/v1/audit/verify", json={})).json() == {
        "ok": True, "entries": found[5]["seq"], "fault": None,
    }  # fmt: skip


async def test_nothing_secret_is_in_the_log(client, core):
    """Neither tokens nor passwords, nor their hashes."""
    anna = await operator(client, "anna", "viewer")
    password = "correct horse battery"
    answer = await client.put("/api/v1/operators/anna/password", json={"password": password})
    assert answer.json()["password"] is True
    await client.post("/api/v1/session", json={"name": "anna", "password": password})
    await client.get("/api/v1/me", headers={"Authorization": "Bearer fgt_abc_secretsecret"})
    told = (await client.get("/api/v1/audit/export")).text
    for secret in (anna.headers["Authorization"].removeprefix("Bearer "), password, "argon2", "secretsecret"):
        assert secret not in told
        assert secret.rpartition("_")[2] not in told
    assert core.state.token() not in told
    assert "token abc" in told


async def test_wrong_tokens_are_counted(client):
    """After thirty different ones from an address each is told to wait; one that holds is let in all the same; the log
    has one entry.
    """
    for number in range(100):
        wrong = {"Authorization": f"Bearer x{number % 29}"}
        assert (await client.get("/api/v1/me", headers=wrong)).status_code == 401
    assert (await client.get("/api/v1/me", headers={"Authorization": "Bearer y"})).status_code == 401
    answer = await client.get("/api/v1/me", headers={"Authorization": "Bearer x"})
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many")
    assert 290 < int(answer.headers["Retry-After"]) <= 300
    assert (await client.get("/api/v1/me")).json()["name"] == "admin"
    found = await entries(client, action="authenticate")
    assert [(entry["outcome"], entry["facts"]) for entry in found] == [("refused", {"times": 1})]
    counted = (await client.get("/metrics")).text
    for reason, times in (("unauthorized", 101), ("too_many", 1), ("forbidden", 0)):
        assert f'fleetgate_api_refused_total{{reason="{reason}"}} {times}.0\n' in counted


async def test_a_browser_logs_in(client):
    """With a cookie that pages can't read; what changes something needs the token of the page, and no other site."""
    await operator(client, "anna", "operator")
    await client.put("/api/v1/operators/anna/password", json={"password": "correct horse"})
    await add(client, "p1")
    wrong = await client.post("/api/v1/session", json={"name": "anna", "password": "wrong horse!"})
    nobody = await client.post("/api/v1/session", json={"name": "nobody", "password": "wrong horse!"})
    assert wrong.json() == nobody.json()
    assert (wrong.status_code, wrong.json()["code"]) == (401, "unauthorized")
    answer = await client.post("/api/v1/session", json={"name": "anna", "password": "correct horse"})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    secret = answer.cookies["fleetgate_session"]
    page = {"Authorization": "", "Cookie": f"fleetgate_session={secret}"}
    csrf = {**page, "X-CSRF-Token": answer.json()["csrf"]}
    client.cookies.clear()
    assert (await client.get("/api/v1/me", headers=page)).json()["credential"] == "session"
    for headers in (page, {**page, "X-CSRF-Token": "x"}, {**csrf, "Sec-Fetch-Site": "cross-site"}):
        refused = await client.post("/api/v1/devices/p1/disable", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "csrf")
    assert (await client.post("/api/v1/devices/p1/disable", headers=csrf)).status_code == 200
    (entry,) = await entries(client, action="device.disable", outcome="done")
    assert (entry["actor"], entry["via"]) == ("anna", "console")
    for bad in ("fleetgate_session=x", "x", "fleetgate_session", '="', "a=b; fleetgate_session=\x7f"):
        assert (await client.get("/api/v1/me", headers={**page, "Cookie": bad})).status_code == 401
    assert (await client.delete("/api/v1/session", headers=csrf)).status_code == 200
    assert (await client.get("/api/v1/me", headers=page)).status_code == 401


async def test_guessed_passwords(client):
    """Lock an address out, for the right one too, and nobody else: tokens go on."""
    anna = await operator(client, "anna", "viewer")
    await client.put("/api/v1/operators/anna/password", json={"password": "correct horse"})
    for _ in range(10):
        answer = await client.post("/api/v1/session", json={"name": "anna", "password": "wrong horse"})
        assert answer.status_code == 401
    answer = await client.post("/api/v1/session", json={"name": "anna", "password": "correct horse"})
    assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)
    assert (await anna("GET", "/me")).status_code == 200
    changed = {"current": "correct horse", "password": "another horse"}
    assert (await anna("PUT", "/operators/anna/password", json=changed)).status_code == 403


async def test_the_own_password(client):
    """Is changed by who knows it; the first one is an admin's to give."""
    anna = await operator(client, "anna", "viewer")
    assert (await anna("PUT", "/operators/anna/password", json={"password": "correct horse"})).status_code == 403
    await client.put("/api/v1/operators/anna/password", json={"password": "correct horse"})
    changed = {"current": "correct horse", "password": "another horse"}
    assert (await anna("PUT", "/operators/anna/password", json=changed)).status_code == 200
    assert (await anna("PUT", "/operators/anna/password", json=changed)).status_code == 403


async def test_explanations(client):
    """Why an operator may do something, or not: also with a part of the fleet, also of who is disabled."""
    await add(client, "p1", site="hall")
    await operator(client, "anna", "operator", sites=["hall"])

    async def explained(name: str, action: str, device: str | None = None) -> tuple[str, str]:
        params = {"action": action, **({"device": device} if device else {})}
        found = (await client.get(f"/api/v1/operators/{name}/explanation", params=params)).json()
        return found["decision"], found["detail"]

    assert await explained("anna", "device.retire", "p1") == ("allow", "anna is operator of site hall")
    assert await explained("anna", "device.retire", "p2") == ("deny", "no device named 'p2'")
    assert await explained("anna", "device.delete", "p1") == (
        "deny",
        "device.delete needs the role admin, anna has operator here",
    )
    assert (await explained("anna", "telemetry.sql"))[0] == "deny"
    assert (await explained("anna", "token.add"))[0] == "allow"
    assert (await explained("admin", "device.delete", "p1"))[0] == "allow"
    await client.put("/api/v1/operators/anna", json={"role": "operator", "disabled": True})
    assert await explained("anna", "device.list") == ("deny", "anna is disabled")
    answer = await client.get("/api/v1/operators/anna/explanation", params={"action": "nothing"})
    assert (answer.status_code, "no 'nothing'" in answer.json()["detail"]) == (422, True)
    assert (await client.get("/api/v1/operators/x/explanation", params={"action": "device.list"})).status_code == 404


async def test_operators_are_kept(client):
    """Shown with what they have; unknown groups, names and versions are refused."""
    made = await client.put("/api/v1/operators/anna", json={"role": "viewer", "description": "Anna"})
    assert (made.headers["ETag"], made.json()["tokens"]) == ('"1"', 0)
    for name, body, status in (
        ("anna", {"role": "king"}, 422),
        ("anna", {"role": "viewer", "groups": ["none"]}, 404),
        ("admin", {"role": "viewer"}, 409),
        ("a b", {"role": "viewer"}, 422),
    ):
        assert (await client.put(f"/api/v1/operators/{name}", json=body)).status_code == status
    stale = await client.put("/api/v1/operators/anna", json={"role": "viewer"}, headers={"If-Match": '"7"'})
    assert stale.status_code == 409
    assert [found["name"] for found in (await client.get("/api/v1/operators")).json()] == ["anna"]
    assert (await client.get("/api/v1/operators/anna/tokens")).json() == []
    assert (await client.delete("/api/v1/operators/anna")).status_code == 200
    assert (await client.get("/api/v1/operators/anna")).status_code == 404


async def test_what_refused_requests_leave(client):
    """A body that is none, a field too many: failed, with the reason; nothing is left as begun."""
    for body in (b"{", b"[]", b'{"name": 1}', b'{"name": "\\ud800"}', b'{"name": "\\u0000"}', b'{"name": "/"}'):
        answer = await client.post("/api/v1/devices", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
    found = await entries(client, action="device.add")
    assert {(entry["outcome"], entry["code"]) for entry in found} == {("failed", "invalid"), ("failed", "invalid_name")}


async def test_verify_takes_checkpoints(client):
    """That were kept elsewhere; what is none is said."""
    assert (await client.get("/api/v1/audit/checkpoint")).status_code == 404
    await add(client, "p1")
    point = (await client.get("/api/v1/audit/checkpoint")).json()
    assert point["seq"] == 1
    await add(client, "p2")
    answer = await client.post("/api/v1/audit/verify", json={"checkpoints": [point]})
    assert answer.json() == {"ok": True, "entries": 2, "fault": None}
    answer = await client.post("/api/v1/audit/verify", json={"checkpoints": [{**point, "seq": 2}]})
    assert (answer.status_code, "signature does not hold" in answer.json()["detail"]) == (422, True)


async def test_where_somebody_comes_from_is_not_theirs_to_say(client, core, tmp_path):
    """X-Forwarded-For counts where it comes from a proxy that is set, and nowhere else."""
    for proxies, address in (((), "127.0.0.1"), (("127.0.0.1",), "192.0.2.7")):
        async with (
            HttpServer(create_api(core), bind=("127.0.0.1", 0), proxies=proxies) as server,
            httpx.AsyncClient(base_url="http://{}:{}".format(*server.address)) as other,
        ):
            wrong = {"Authorization": "Bearer wrong", "X-Forwarded-For": "192.0.2.7"}
            assert (await other.get("/api/v1/me", headers=wrong)).status_code == 401
        assert (await entries(client, action="authenticate"))[0]["address"] == address


async def test_names_that_are_none_at_the_login(client):
    """A name that nobody has is refused and in the log; a text that no database can hold is no name."""
    for name, status in (("\\u202e/x", 401), ("\\u0000x", 422)):
        body = b'{"name": "%s", "password": "wrong horse"}' % name.encode()
        answer = await client.post("/api/v1/session", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status
    assert [entry["actor"] for entry in await entries(client, action="session.login")] == ["\u202e/x"]
