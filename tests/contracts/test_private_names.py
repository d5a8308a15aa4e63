"""Private names of other people's packages that we use: an upgrade that moves one fails here first, and says which."""

import inspect
import sqlite3

import aiomqtt
import aiosqlite
import paho.mqtt.client
from amqtt.broker import Broker, BrokerContext
from amqtt.session import Session


async def test_amqtt_context_knows_its_broker():
    """attached.py finds what plugins share through BrokerContext._broker_instance."""
    broker = Broker({"listeners": {"default": {"type": "external"}}, "plugins": {}})
    assert BrokerContext(broker)._broker_instance is broker


def test_amqtt_session_has_what_plugins_use():
    """auth.py and embedded.py use these public attributes; a session begins with none of ours."""
    session = Session()
    assert session.attributes == {}
    assert session.delivered_message_queue.qsize() == 0
    assert len(session.inflight_in) == 0
    assert session.ssl_object is None


def test_amqtt_generates_client_ids_that_no_device_has():
    """auth.py tells a generated id by its prefix."""
    from amqtt.utils import gen_client_id

    from broker_plugins.auth import _GENERATED
    from fleet.names import is_name

    assert gen_client_id().startswith(_GENERATED)
    assert not is_name(_GENERATED)


async def test_aiosqlite_runs_any_function_in_its_thread(tmp_path):
    """sqlite/store.py runs a whole transaction in one hop with Connection._execute and _conn."""
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
