"""amqtt compatibility: its own plugins, those of its contrib, and others of each base class, in our broker."""

import asyncio
import time

import jwt
import pytest
from aiohttp import web
from amqtt.broker import BrokerContext
from amqtt.contrib.auth_db.managers import UserManager
from amqtt.contrib.http import ParamsMode, RequestMethod, ResponseMode
from pwdlib import PasswordHash

from broker_plugins.engine.packets import V311, Ack, Disconnect, Kind, Publish, Unsuback, Unsubscribe
from broker_plugins.engine.reasons import Reason
from broker_plugins.errors import PluginRefusedError
from tests.broker_plugins.engine.client import Served, served
from tests.contracts import third_party
from tests.contracts.third_party import Recorder
from tests.waiting import until

PLAIN = {"plain_bind": "127.0.0.1:0", "flapping_connects": 0}
ANYBODY = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
HERE = "tests.contracts.third_party."


@pytest.fixture(autouse=True)
def fresh():
    third_party.Recorder.seen.clear()


def with_plugins(tmp_path, plugins: dict, **more):
    return served(tmp_path / "gate", plugins=plugins, **PLAIN, **more)


async def refused(gate: Served, client_id: str, **connect) -> bool:
    async with await gate.open(client_id, V311, "mqtt") as client:
        return (await client.connect(client_id, **connect)).reason != 0


async def test_events_come_in_amqtts_order(tmp_path):
    """From before the start to the end, each once; a plugin that fails is logged, counted and harms nobody."""
    plugins = {**ANYBODY, HERE + "Failing": {}, HERE + "Recorder": {}}
    async with with_plugins(tmp_path, plugins) as gate:
        async with await gate.client("x", V311, "mqtt") as client:
            await client.subscribe("some/+", 1)
            await client.send(Publish("some/topic", b"hello", 1, True, packet_id=1))
            assert {type(await client.receive()) for _ in range(2)} == {Ack, Publish}
            await client.send(Unsubscribe(4, ["some/+"]))
            await client.expect(Unsuback)
            await client.send(Disconnect())
            await client.closed()
        await until(lambda: ("disconnected", "x") in Recorder.seen)
        assert gate.core.broker.dispatcher.failures == 3
    assert Recorder.seen == [
        ("pre_start", None),
        ("post_start", None),
        ("connected", "x"),
        ("subscribed", ("x", "some/+", 1)),
        ("received", ("x", "some/topic", b"hello", 1)),
        ("retained", ("some/topic", b"hello")),
        ("broadcast", ("x", "some/topic")),
        ("unsubscribed", ("x", "some/+")),
        ("disconnected", "x"),
        ("pre_shutdown", None),
        ("post_shutdown", None),
        ("close", None),
    ]


async def test_plugins_narrow_and_never_widen(tmp_path):
    """With a certificate: every plugin has to agree, and none of them opens what the certificate does not."""
    plugins = {HERE + "Names": {"names": ["a"]}, HERE + "Everything": {}, HERE + "Narrow": {}}
    async with with_plugins(tmp_path, plugins) as gate:
        await gate.add("a")
        await gate.add("b")
        async with await gate.open("b") as other:
            assert (await other.connect("b")).reason == Reason.NOT_AUTHORIZED
        async with await gate.client("a") as device:
            assert await device.subscribe("devices/a/#", 1) == [1]
            assert await device.subscribe("devices/b/#", 1) == [Reason.NOT_AUTHORIZED]
            assert await device.subscribe("devices/a/no-subscribe/#", 1) == [Reason.NOT_AUTHORIZED]
            for topic in ("devices/a/telemetry/no-publish", "devices/b/telemetry", "devices/a/fails"):
                await device.send(Publish(topic, b"{}", 1, packet_id=5))
                await device.expect(Ack, reason=Reason.NOT_AUTHORIZED)
            await device.publish("devices/a/no-receive", packet_id=6)
            await device.send(Publish("devices/a/yes", b"{}", 1, packet_id=7))
            got = [await device.receive() for _ in range(2)]
            assert {type(packet) for packet in got} == {Ack, Publish}
            await device.silent()
        gate.check_account()


@pytest.mark.parametrize("broken", ["Raising", "Names"])
async def test_no_answer_means_no(tmp_path, broken: str):
    """A plugin that fails, and one that has no opinion where none else has one."""
    async with with_plugins(tmp_path, {HERE + broken: {}}) as gate:
        assert await refused(gate, "x", username="nobody-knows")


async def test_one_session_object_for_a_connections_life(tmp_path):
    """What an auth plugin wrote on it, others read; BrokerContext finds it."""
    async with with_plugins(tmp_path, {HERE + "Names": {"names": ["x"]}}) as gate:
        context = BrokerContext(gate.core.broker)
        async with await gate.client("x", V311, "mqtt", keep_alive=9):
            session = context.get_session("x")
            assert session.attributes == {"third.party": True}
            assert context.get_session("x") is session
            assert (session.keep_alive, session.remote_address) == (9, "127.0.0.1")
            assert session.transitions.is_connected()
            assert [found.client_id for found in context.sessions] == ["x"]
        await until(lambda: session.transitions.state == "disconnected")
        assert context.get_session("x") is None


async def test_broker_context(tmp_path):
    """Broadcast, retain, subscribe on behalf of a client, and what is there to see."""
    async with with_plugins(tmp_path, ANYBODY) as gate:
        context = BrokerContext(gate.core.broker)
        async with await gate.client("x", V311, "mqtt") as client:
            await client.subscribe("news/#", 1)
            await context.broadcast_message("news/a", b"1")
            await client.expect(Publish, payload=b"1", qos=1, retain=False)
            await context.broadcast_message("news/a", b"2", 0)
            await client.expect(Publish, payload=b"2", qos=0)
            await context.retain_message("news/kept", b"3", 1)
            assert context.retained_messages["news/kept"].data == b"3"
            assert set(context.subscriptions) == {"news/#"}
            assert context.subscriptions["news/#"][0][0].client_id == "x"
        await context.add_subscription("later", "news/#", 1)
        await context.add_subscription("nothing-yet", None, None)
        assert {session.client_id for session in context.sessions} >= {"later", "nothing-yet"}
        await context.broadcast_message("news/b", b"4", 1)
        async with await gate.open("later", V311, "mqtt") as client:
            assert (await client.connect("later", clean=False)).session_present
            await client.expect(Publish, payload=b"4")
        await context.retain_message("news/kept", b"")
        assert "news/kept" not in context.retained_messages
        context.retained_messages["news/x"] = third_party_retained("news/x", b"5")
        del context.retained_messages["news/x"]
        assert len(context.retained_messages) == 0


def third_party_retained(topic: str, data: bytes):
    from amqtt.broker import RetainedApplicationMessage

    return RetainedApplicationMessage(None, topic, data, 1)


async def test_anonymous_file_and_taboo(tmp_path):
    """amqtt's own: a user of the password file gets in, others do not; a taboo topic is one."""
    hashed = PasswordHash.recommended().hash("secret")
    (tmp_path / "passwd").write_text(f"user:{hashed}\n")
    plugins = {
        "amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(tmp_path / "passwd")},
        "amqtt.plugins.topic_checking.TopicTabooPlugin": {},
    }
    async with with_plugins(tmp_path, plugins) as gate:
        assert await refused(gate, "x")
        assert await refused(gate, "x", username="user", password=b"wrong")
        async with await gate.client("x", V311, "mqtt", username="user", password=b"secret") as client:
            assert await client.subscribe("prohibited", 1) == [0x80]
            assert await client.subscribe("fine", 1) == [1]
            await client.publish("prohibited")
            await client.silent()
            await client.send(Publish("fine", b"x", 1, packet_id=2))
            assert {type(await client.receive()) for _ in range(2)} == {Ack, Publish}


@pytest.mark.filterwarnings("ignore:.*psutil:DeprecationWarning")  # amqtt's, about its own future
async def test_sys_and_loggers(tmp_path):
    """amqtt's $SYS plugin broadcasts and counts packets; its loggers see everything and disturb nothing."""
    plugins = {
        **ANYBODY,
        "amqtt.plugins.sys.broker.BrokerSysPlugin": {"sys_interval": 1},
        "amqtt.plugins.logging_amqtt.PacketLoggerPlugin": {},
        "amqtt.plugins.logging_amqtt.EventLoggerPlugin": {},
    }
    async with with_plugins(tmp_path, plugins) as gate:
        async with await gate.client("x", V311, "mqtt") as client:
            await client.publish("a/b", b"x")
            await client.send(Publish("a/b", b"x", 2, packet_id=2))
            await client.expect(Ack, kind=Kind.PUBREC)
            await client.send(Ack(Kind.PUBREL, 2))
            await client.expect(Ack, kind=Kind.PUBCOMP)
            await client.subscribe("$SYS/broker/messages/publish/received", 1)
            while int((await client.expect(Publish)).payload) < 2:
                pass
        assert gate.core.broker.dispatcher.failures == 0


async def test_contrib_certificates(tmp_path):
    """Its certificate plugin agrees with ours about our certificates, and lets in nobody without one."""
    plugins = {"amqtt.contrib.cert.UserAuthCertPlugin": {"uri_domain": "fleetgate.local"}}
    async with with_plugins(tmp_path, plugins) as gate:
        await gate.add("a")
        async with await gate.client("a") as device:
            await device.silent()
        assert await refused(gate, "a")


async def test_contrib_jwt(tmp_path):
    """User and topics out of a token."""
    secret = "0123456789abcdef0123456789abcdef"
    base = {"secret_key": secret}
    plugins = {
        "amqtt.contrib.jwt.UserAuthJwtPlugin": {**base, "user_claim": "sub"},
        "amqtt.contrib.jwt.TopicAuthJwtPlugin": {
            **base,
            "publish_claim": "publish",
            "subscribe_claim": "subscribe",
            "receive_claim": "receive",
        },
    }
    claims = {"sub": "user", "exp": time.time() + 60, "publish": ["in/#"], "subscribe": ["out/#"], "receive": ["out/#"]}
    token = jwt.encode(claims, secret, algorithm="HS256").encode()
    async with with_plugins(tmp_path, plugins) as gate:
        assert await refused(gate, "x", username="user", password=b"junk")
        async with await gate.client("x", V311, "mqtt", username="user", password=token) as client:
            assert await client.subscribe("out/x", 1) == [1]
            assert await client.subscribe("in/x", 1) == [0x80]
            await client.publish("in/x")
        assert gate.core.ledger.totals.routed == 1


async def test_contrib_http(tmp_path):
    """Asks a web server about users and topics."""

    async def answer(request: web.Request) -> web.Response:
        given = await request.json() if request.can_read_body else dict(request.query)
        good = given.get("username") == "user" and given.get("topic", "good") == "good"
        return web.Response(status=200 if good else 401)

    application = web.Application()
    application.router.add_route("*", "/{name}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    config = {
        "host": "127.0.0.1",
        "port": port,
        "request_method": RequestMethod.POST,
        "params_mode": ParamsMode.JSON,
        "response_mode": ResponseMode.STATUS,
    }
    plugins = {
        "amqtt.contrib.http.UserAuthHttpPlugin": config,
        "amqtt.contrib.http.TopicAuthHttpPlugin": config,
    }
    try:
        async with with_plugins(tmp_path, plugins) as gate:
            assert await refused(gate, "x", username="other", password=b"p")
            async with await gate.client("x", V311, "mqtt", username="user", password=b"p") as client:
                assert await client.subscribe("good", 1) == [1]
                assert await client.subscribe("bad", 1) == [0x80]
    finally:
        await runner.cleanup()


async def test_contrib_database(tmp_path):
    """Users out of a database of its own."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'users.db'}"
    plugins = {"amqtt.contrib.auth_db.UserAuthDBPlugin": {"connection": url, "sync_schema": True}}
    async with with_plugins(tmp_path, plugins) as gate:
        async with UserManager(url) as users:
            await users.create_user_auth("user", "secret")
        assert await refused(gate, "x", username="user", password=b"wrong")
        async with await gate.client("x", V311, "mqtt", username="user", password=b"secret") as client:
            await client.silent()


async def test_contrib_shadows(tmp_path):
    """A device's shadow: an update is accepted, and answered on the shadow's topics."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'shadows.db'}"
    plugins = {**ANYBODY, "amqtt.contrib.shadows.ShadowPlugin": {"connection": url}}
    async with with_plugins(tmp_path, plugins) as gate, await gate.client("x", V311, "mqtt") as client:
        assert await client.subscribe("$shadow/x/main/update/accepted", 1) == [1]
        await client.send(Publish("$shadow/x/main/update", b'{"state": {"reported": {"v": 1}}}', 0))
        packet = await client.expect(Publish, topic="$shadow/x/main/update/accepted")
        assert b'"v"' in packet.payload


async def test_persistence_plugins_are_refused_at_start(tmp_path):
    """The engine keeps sessions itself."""
    with pytest.raises(PluginRefusedError, match="persistence"):
        async with with_plugins(tmp_path, {"amqtt.contrib.persistence.SessionDBPlugin": {}}):
            pass


@pytest.mark.parametrize(
    ("plugins", "named"),
    [
        ({"no.such.Plugin": {}}, "no.such.Plugin"),
        ({"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonimous": True}}, "allow_anonimous"),
        ({"tests.contracts.third_party.dataclass": {}}, "not a subclass"),
    ],
)
async def test_a_plugin_that_cannot_be_loaded_is_named(tmp_path, plugins: dict, named: str):
    """One clear line at start."""
    with pytest.raises(PluginRefusedError, match=named):
        async with with_plugins(tmp_path, plugins):
            pass


async def test_a_stream_from_somebody_elses_listener(tmp_path):
    """Broker.stream_connected and external_connected serve what amqtt's do."""
    async with with_plugins(tmp_path, ANYBODY) as gate:
        broker = gate.core.broker

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await broker.stream_connected(reader, writer, "default")

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        gate.addresses["mqtt"] = server.sockets[0].getsockname()[:2]
        async with await gate.client("x", V311, "mqtt") as client:
            await client.subscribe("a", 1)
            await client.send(Publish("a", b"x", 1, packet_id=1))
            assert {type(await client.receive()) for _ in range(2)} == {Ack, Publish}
            await client.send(Disconnect())
            assert await client.receive() is None
        await until(lambda: not gate.engine.all)
        server.close()
