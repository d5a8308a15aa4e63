"""The generated client: as the document says, against the API; and the fleet as a DataFrame."""

import asyncio
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fleetgate.client import ApiError, Client, operations
from fleetgate.client.generator import generate
from fleetgate.http.actions import ACTIONS
from fleetgate.http.api import create_api
from fleetgate.http.server import HttpServer
from tests.fleetgate.test_fleet_api import add
from tests.fleetgate.test_http import client, core, store

__all__ = ["client", "core"]


@pytest.fixture
async def notebook(core):
    """A client of a server on TCP, as a notebook has it."""
    async with HttpServer(create_api(core), bind=("127.0.0.1", 0), closing=core.tail.close) as server:
        with Client("http://{}:{}".format(*server.address), core.state.token()) as made:
            yield made


def formatted(text: str) -> str:
    for arguments in (["check", "--select", "I,F401", "--fix"], ["format"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--quiet", "--stdin-filename", operations.__file__, "-"]
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return text


async def test_it_is_generated_of_the_document(client, request):
    """Nobody changed it, and nothing in the API changed without it."""
    made = formatted(generate((await client.get("/api/v1/openapi.json")).json()))
    file = Path(operations.__file__)
    if request.config.getoption("--record"):
        file.write_text(made)
    assert file.read_text() == made


def test_each_action_is_a_method():
    """With the name that roles and the audit log know it by."""
    methods = {name for name, _ in inspect.getmembers(Client, inspect.isfunction)}
    assert {action.name.replace(".", "_") for action in ACTIONS.values()} <= methods


async def test_the_fleet_is_a_frame(client, core, notebook):
    """One call: a row a device, attributes as columns, times as times; all pages, or what a query finds."""
    await add(client, "p1", site="hall", attributes={"fw": "1.0"}, tags=["a"])
    rows = "".join(f"p{number},1.1,{number}\n" for number in range(2, 203))
    table = f"name,attributes.fw,attributes.n:number\n{rows}"
    await client.post("/api/v1/device-imports", content=table, headers={"Content-Type": "text/csv"})
    while (await client.get("/api/v1/device-counts")).json()[0]["count"] < 202:
        await asyncio.sleep(0.01)
    fleet = await asyncio.to_thread(notebook.fleet)
    assert (len(fleet), fleet.index.name, fleet.loc["p1", "attributes.fw"]) == (202, "name", "1.0")
    assert fleet["attributes.n"].sum() == sum(range(2, 203))
    assert str(fleet["created"].dtype).endswith("UTC]")
    assert list((await asyncio.to_thread(notebook.fleet, "site:hall")).index) == ["p1"]
    assert (await asyncio.to_thread(notebook.fleet, "site:nowhere")).empty


async def test_readings_are_a_frame(client, core, notebook):
    """By time, a field a column; and what SQL answers, where a field is a row."""
    await add(client, "p1")
    await store(core, "p1", b'{"temperature": 20.5}', b'{"temperature": 22.5, "n": 1}')
    readings = await asyncio.to_thread(notebook.telemetry, "p1")
    assert readings["temperature"].mean() == 21.5
    assert readings.index.is_monotonic_increasing
    assert (await asyncio.to_thread(notebook.telemetry, "p1", from_="-1s")).empty
    counted = await asyncio.to_thread(notebook.sql_frame, "SELECT device, count(*) AS n FROM readings GROUP BY device")
    assert counted.to_dict("records") == [{"device": "p1", "n": 3}]


async def test_methods_change_and_watch(client, notebook):
    """Bodies, versions, errors with their code, and answers that go on."""
    await add(client, "p1")

    def work() -> None:
        watched = notebook.change_watch(kinds="device")
        changed = notebook.device_set("p1", notes="oiled", if_match='"1"')
        assert (changed["notes"], changed["version"]) == ("oiled", 2)
        with pytest.raises(ApiError) as refused:
            notebook.device_set("p1", notes="again", if_match='"1"')
        assert (refused.value.status, "version 2 by now" in refused.value.detail) == (409, True)
        with pytest.raises(ApiError) as unknown:
            notebook.device_show("a b/c")
        assert (unknown.value.status, unknown.value.code) == (404, "not_found")
        notebook.stream_set("radio", {"filter": "radio/{device}", "codec": "json"})
        assert notebook.stream_show("radio")["definition"]["codec"] == "json"
        operation = notebook.device_import(b"name\np2\n", "text/csv", dry_run=True)
        assert operation["kind"] == "device-import"
        watched.close()

    await asyncio.to_thread(work)


def test_it_finds_its_server_as_commands_do(tmp_path, monkeypatch):
    """By the environment, or by the state folder."""
    (tmp_path / "server.json").write_text(json.dumps({"http": "127.0.0.1:7"}))
    (tmp_path / "admin.token").write_text("secret")
    monkeypatch.delenv("FLEETGATE_URL", raising=False)
    with Client.connect(tmp_path) as found:
        assert str(found._http.base_url) == "http://127.0.0.1:7/api/v1/"
    monkeypatch.setenv("FLEETGATE_URL", "https://gate.example.com/")
    with Client.connect(tmp_path) as found:
        assert str(found._http.base_url) == "https://gate.example.com/api/v1/"
