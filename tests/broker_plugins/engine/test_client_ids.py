"""Whose a client id is: a device's name is the device's, an application's begins with its name and a slash."""

import sqlite3
from pathlib import Path

import pytest

from broker_plugins.engine.packets import V5, V311
from broker_plugins.engine.reasons import Reason
from fleet.errors import ConflictError
from fleet.identity import Kind
from fleet.registry.model import Member, State
from tests.broker_plugins.engine.client import served
from tests.broker_plugins.engine.test_listeners import ANYBODY
from tests.waiting import until

KEPT = {"session_expiry_interval": 3600}


def change(folder: Path, file: str, *statements: str) -> None:
    with sqlite3.connect(folder / "state" / file) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def named(name: str, as_name: str) -> list[str]:
    where = f"SET name = '{as_name}' WHERE kind = 'application' AND name = '{name}'"
    return [f"UPDATE members {where}", f"UPDATE certificates {where}"]


@pytest.mark.parametrize(
    ("kind", "client_id", "allowed"),
    [
        (Kind.DEVICE, "pump", True),
        (Kind.DEVICE, "pump/1", False),
        (Kind.DEVICE, "Pump", False),
        (Kind.APPLICATION, "pump", True),
        (Kind.APPLICATION, "pump/1", True),
        (Kind.APPLICATION, "pump/1/2 \u00e4", True),
        (Kind.APPLICATION, "pump-1", False),
        (Kind.APPLICATION, "pump.1", False),
        (Kind.APPLICATION, "pumps", False),
        (Kind.APPLICATION, "pumps/1", False),
        (Kind.APPLICATION, "/pump", False),
        (Kind.APPLICATION, "PUMP/1", False),
        (Kind.CLAIM, "anything", True),
    ],
)
def test_client_ids_of_each_kind(kind: Kind, client_id: str, allowed: bool):
    """A device has its name, an application its name and what follows a slash, a claim any."""
    assert Member(kind, "pump", State.ACTIVE, 0, 0).may_use_client_id(client_id) is allowed


async def test_an_application_takes_no_devices_client_id(tmp_path):
    """Application pump is refused as pump-1, which is a device, there or not; as pump/1 it is let in beside it."""
    async with served(tmp_path / "gate") as gate:
        await gate.add("pump", Kind.APPLICATION, (), ("devices/#",))
        for client_id in ("pump-1", "pump1", "pump-2"):
            async with await gate.open("pump") as client:
                assert (await client.connect(client_id)).reason == Reason.NOT_AUTHORIZED
        await gate.add("pump-1")
        async with (
            await gate.client("pump-1") as device,
            await gate.client("pump", client_id="pump/1") as one,
            await gate.client("pump") as two,
        ):
            assert set(gate.engine.connections) == {"pump-1", "pump/1", "pump"}
            for client in (device, one, two):
                await client.silent()


async def test_a_name_is_given_once(tmp_path):
    """To a device or to an application, whichever comes first; a claim is neither."""
    async with served(tmp_path / "gate") as gate:
        await gate.add("a")
        with pytest.raises(
            ConflictError, match="device a is registered: a name belongs to one device or one application"
        ):
            await gate.add("a", Kind.APPLICATION)
        await gate.add("back", Kind.APPLICATION)
        with pytest.raises(
            ConflictError, match="application back is registered: a name belongs to one device or one application"
        ):
            await gate.add("back")
        await gate.add("a", Kind.CLAIM)
        await gate.core.registry.delete(Kind.DEVICE, "a")
        await gate.add("a", Kind.APPLICATION)


async def test_an_older_registry_has_a_name_twice(tmp_path):
    """It opens; the client id is the device's, the application has those with a slash, and neither is shown as the
    other, nor deleted with it.
    """
    folder = tmp_path / "gate"
    async with served(folder) as gate:
        await gate.add("pump", Kind.APPLICATION, (), ("devices/#",))
    for file in (folder / "pump.pem", folder / "pump.key"):
        file.rename(file.with_stem("application"))
    change(folder, "fleet.db", *named("pump", "-"))
    async with served(folder) as gate:
        await gate.add("pump")
    change(folder, "fleet.db", *named("-", "pump"))
    async with served(folder) as gate:
        core = gate.core
        for client_id in ("pump", ""):
            async with await gate.open("application") as client:
                assert (await client.connect(client_id)).reason == Reason.NOT_AUTHORIZED
        async with await gate.client("application", client_id="pump/x") as application:
            assert not core.presence.connected("pump")
            assert core.presence.connected("application/pump")
            assert gate.engine.connection_of("device:pump") is None
            async with await gate.client("pump") as device:
                assert core.presence.connected("pump")
                await device.publish("devices/pump/telemetry", b'{"v": 1}')
                await core.registry.delete(Kind.APPLICATION, "pump")
                assert (await application.closed()).reason == Reason.ADMINISTRATIVE_ACTION
                await device.silent()
        assert await gate.fields("pump") == [{"v": 1}]
        gate.check_account()


async def test_a_session_under_a_devices_client_id(tmp_path):
    """What an application left of an earlier version is in no device's way, and given to nobody."""
    folder = tmp_path / "gate"
    async with served(folder) as gate:
        await gate.add("pump", Kind.APPLICATION, (), ("devices/#",))
        for client_id in ("pump/1", "pump/2"):
            async with await gate.client("pump", client_id=client_id, properties=KEPT) as client:
                await client.subscribe("devices/+/telemetry", 1)
        await gate.add("pump-1")
    tables = ("sessions", "subscriptions")
    change(folder, "mqtt.db", *(f"UPDATE {table} SET client_id = replace(client_id, '/', '-')" for table in tables))
    async with served(folder) as gate:
        assert set(gate.engine.sessions.by_client_id) == {"pump-1", "pump-2"}
        async with await gate.open("pump-1", V311) as device:
            assert not (await device.connect("pump-1", clean=False)).session_present
            await device.publish("devices/pump-1/telemetry", b'{"v": 1}')
            await device.silent()
        async with await gate.open("pump") as client:
            assert (await client.connect("pump-2")).reason == Reason.NOT_AUTHORIZED
        found = gate.engine.sessions.by_client_id
        assert found["pump-1"].owner == "device:pump-1"
        assert len(found["pump-2"].queue) == 1, "it waits until it expires"
        await gate.core.registry.delete(Kind.APPLICATION, "pump")
        assert "pump-2" not in found


async def test_who_has_no_certificate_locks_nobody_out(tmp_path):
    """A client of the plain listener under a device's or an application's client id goes when these come."""
    async with served(tmp_path / "gate", plain_bind="127.0.0.1:0", plugins=ANYBODY) as gate:
        await gate.add("a")
        await gate.add("back", Kind.APPLICATION)
        for name, client_id in (("a", "a"), ("back", "back"), ("back", "back/1")):
            async with await gate.client("x", V5, "mqtt", client_id=client_id, properties=KEPT) as plain:
                assert not gate.core.presence.connected("a")
                async with await gate.client(name, client_id=client_id) as own:
                    assert (await plain.closed()).reason == Reason.SESSION_TAKEN_OVER
                    await own.silent()
                    async with await gate.open("x", V5, "mqtt") as thief:
                        assert (await thief.connect(client_id)).reason == Reason.NOT_AUTHORIZED
        await until(lambda: not gate.engine.connections)
        gate.check_account()
