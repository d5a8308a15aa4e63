"""Private names of other people's packages that we use: an upgrade that moves one fails here first, and says which."""

import asyncio
import inspect
import sqlite3
import ssl

import aiomqtt
import aiosqlite
import paho.mqtt.client
import pytest
from aiofastnet import ssl_engine_direct
from amqtt.broker import Broker, BrokerContext
from amqtt.events import BrokerEvents
from amqtt.session import Session

from broker_plugins.broker import Broker as OurBroker
from broker_plugins.plugin_session import PluginSession


async def test_amqtt_context_knows_its_broker():
    """attached.py finds what plugins share through BrokerContext._broker_instance."""
    broker = Broker({"listeners": {"default": {"type": "external"}}, "plugins": {}})
    assert BrokerContext(broker)._broker_instance is broker


def test_amqtt_session_has_what_plugins_use():
    """auth.py uses these public attributes; a session begins with none of ours."""
    session = Session()
    assert session.attributes == {}
    assert session.ssl_object is None


def test_our_stand_in_has_every_attribute_of_amqtts_session():
    """plugin_session.py: what a plugin may look at is there."""
    queues = {"retained_messages", "delivered_message_queue"}
    assert set(vars(Session())) - queues <= set(vars(PluginSession("x", connected=True)))
    for state in ("connected", "disconnected"):
        transitions = PluginSession("x", connected=state == "connected").transitions
        assert (transitions.state, transitions.is_connected()) == (state, state == "connected")


@pytest.mark.parametrize("name", ["_sessions", "_subscriptions", "_retained_messages"])
async def test_amqtt_broker_keeps_its_state_by_these_names(name: str):
    """broker.py puts views of the engine in their place, and amqtt's own properties read them."""
    broker = Broker({"listeners": {"default": {"type": "external"}}, "plugins": {}})
    assert getattr(broker, name) == {}
    assert getattr(broker, name[1:]) is getattr(broker, name)


@pytest.mark.parametrize(
    "name",
    [
        "_start_listeners",
        "_broadcast_loop",
        "_session_monitor",
        "shutdown",
        "external_connected",
        "stream_connected",
        "ws_connected",
        "internal_message_broadcast",
        "retain_message",
        "add_subscription",
        "create_offline_session",
    ],
)
def test_amqtt_broker_has_what_ours_overrides(name: str):
    """With the parameters that ours takes."""
    theirs, mine = getattr(Broker, name), getattr(OurBroker, name)
    assert theirs is not mine
    assert list(inspect.signature(theirs).parameters) == list(inspect.signature(mine).parameters)


async def test_amqtt_broker_starts_as_broker_py_expects():
    """start() makes these two tasks and moves this state machine; shutdown has to end them."""
    broker = Broker({"listeners": {"default": {"type": "external"}}, "plugins": {}})
    await broker.start()
    assert broker.transitions.state == "started"
    assert isinstance(broker._broadcast_task, asyncio.Task)
    assert isinstance(broker._session_monitor_task, asyncio.Task)
    await broker.shutdown()
    assert broker.transitions.state == "stopped"


async def test_amqtt_manager_keeps_hooks_by_event():
    """broker.py calls them from PluginManager._event_plugin_callbacks, and fire_event is what is replaced."""
    broker = Broker(
        {"listeners": {"default": {"type": "external"}}, "plugins": {"tests.contracts.third_party.Recorder": {}}}
    )
    manager = broker.plugins_manager
    (hook,) = manager._event_plugin_callbacks[BrokerEvents.PRE_START]
    assert hook.__self__ is manager.plugins[0]
    assert list(inspect.signature(manager.fire_event).parameters) == ["event_name", "wait", "method_kwargs"]


def test_amqtt_generates_client_ids_that_no_device_has():
    """auth.py tells a generated id by its prefix."""
    from amqtt.utils import gen_client_id

    from broker_plugins.auth import _GENERATED
    from fleet.names import is_name

    assert gen_client_id().startswith(_GENERATED)
    assert not is_name(_GENERATED)


async def test_aiosqlite_runs_any_function_in_its_thread(tmp_path):
    """sqlite/store.py and engine/store.py run a whole transaction in one hop with Connection._execute and _conn."""
    async with aiosqlite.connect(tmp_path / "x.db") as connection:
        raw = connection._conn
        assert isinstance(raw, sqlite3.Connection)
        assert await connection._execute(lambda db, value: db.execute("SELECT ?", (value,)).fetchone(), raw, 7) == (7,)


async def test_aiomqtt_wraps_a_paho_client_that_can_ack_by_hand():
    """source_mqtt.py acknowledges through aiomqtt.Client._client, and takes messages at its queue's put_nowait."""
    client = aiomqtt.Client("127.0.0.1")
    assert isinstance(client._client, paho.mqtt.client.Client)
    client._client.manual_ack_set(True)
    assert list(inspect.signature(client._client.ack).parameters) == ["mid", "qos"]
    assert "put_nowait" in inspect.getsource(aiomqtt.Client._on_message)


def test_tls_says_which_path_it_verified():
    """handshakes.py asks SSLObject for it, before Python 3.13 by a private name, and aiofastnet by the public one."""
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")
    asked = shown if hasattr(shown, "get_verified_chain") else shown._sslobj
    assert not asked.get_verified_chain()
    assert hasattr(ssl_engine_direct.SSLEngineDirect, "get_verified_chain")
