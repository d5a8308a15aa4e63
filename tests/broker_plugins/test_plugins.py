"""The plugins, in an amqtt broker without sockets."""

from contextlib import AsyncExitStack

import pytest
from amqtt.broker import Broker
from amqtt.contexts import Action
from amqtt.session import IncomingApplicationMessage, Session

from broker_plugins.auth import CertificateAuthPlugin
from broker_plugins.connections import CLOSE_REASONS, REASONS, Connects
from broker_plugins.refusals import Refusals
from broker_plugins.services import MEMBER, Services
from fleet.identity import Kind, Rules
from fleet.registry import Registry
from ingester.decode import Limits
from ingester.errors import StoreUnavailable
from ingester.ledger import Ledger
from ingester.memory import MemoryStore
from ingester.pipeline import Bounds, Pipeline
from ingester.tail import Tail
from tests.fleet.pki import certificate, der
from tests.fleet.policies import open_policies
from tests.waiting import until

NAMES = ("auth.CertificateAuthPlugin", "acl.TopicRightsPlugin", "ingest.IngestPlugin", "presence.PresencePlugin")


class Tls:
    """A TLS connection, as far as a plugin looks at it."""

    def __init__(self, cert) -> None:
        self._der = der(cert) if cert is not None else None

    def getpeercert(self, binary_form: bool):
        return self._der

    def version(self) -> str:
        return "TLSv1.3"


def session(cert, client_id: str) -> Session:
    made = Session()
    made.ssl_object = Tls(cert)
    made.client_id = client_id
    return made


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
async def services(tmp_path, store):
    ledger = Ledger()
    async with (
        Registry(tmp_path / "f.db") as registry,
        Pipeline(store, ledger, bounds=Bounds(queue_messages=5)) as pipeline,
        AsyncExitStack() as stack,
    ):
        policies, decisions = await open_policies(stack, registry)
        refusals = Refusals(Tail(Limits()))
        yield Services(registry, policies, decisions, pipeline, ledger, Connects(ledger), refusals, Rules())


def broker(services) -> tuple:
    plugins = {f"broker_plugins.{name}": {"services": services} for name in NAMES}
    made = Broker({"listeners": {"default": {"type": "external"}}, "plugins": plugins})
    return made, *(made.plugins_manager.get_plugin(name.split(".")[1]) for name in NAMES)


async def test_let_in_and_booked(services, store):
    """A registered device: authenticated, its rights, its messages, its presence."""
    _broker, auth, acl, ingest, presence = broker(services)
    cert = certificate()
    await services.registry.add(Kind.DEVICE, "pump-1", cert)
    mine = session(cert, "amqtt/abcdefghijklmnop")
    assert await auth.authenticate(session=mine) is True
    assert mine.client_id == "pump-1"
    assert await acl.topic_filtering(session=mine, topic="devices/pump-1/telemetry", action=Action.PUBLISH) is True
    assert await acl.topic_filtering(session=mine, topic="devices/x/telemetry", action=Action.PUBLISH) is False
    assert await acl.topic_filtering(session=mine, topic="devices/pump-1/#", action=Action.SUBSCRIBE) is True
    assert await acl.topic_filtering(session=mine, topic="devices/x/a", action=Action.RECEIVE) is False
    await presence.on_broker_client_connected(client_id="pump-1", client_session=mine)
    assert services.ledger.totals.connections == 1
    for topic, payload in (("devices/pump-1/telemetry/a", b"{}"), ("devices/pump-1/other", b"x")):
        message = IncomingApplicationMessage(1, topic, 1, payload, False)
        await ingest.on_broker_message_received(client_id="pump-1", message=message)
        await ingest.on_broker_message_broadcast(client_id="pump-1", message=message)
    await until(lambda: services.ledger.totals.stored == 1)
    totals = services.ledger.totals
    assert (totals.routed, totals.rejected, totals.received) == (1, 1, 2)
    assert store.messages.streams == ["a"]
    await presence.on_broker_client_disconnected(client_id="pump-1", client_session=mine)
    assert services.ledger.totals.connections == 0


async def test_nothing_fails_open(services):
    """No services, no certificate, no session, no topic, an unknown action, a fault inside: the answer is no."""
    _broker, auth, acl, _ingest, _presence = broker(services)
    assert await auth.authenticate(session=Session()) is False
    assert await acl.topic_filtering() is False
    assert await acl.topic_filtering(session=Session(), topic="x", action=Action.PUBLISH) is False
    assert await acl.topic_filtering(session=Session(), topic="x", action=None) is False
    broken = session(None, "x")
    broken.attributes = None
    assert await auth.authenticate(session=broken) is False
    assert await acl.topic_filtering(session=broken, topic="x", action=Action.PUBLISH) is False
    lonely = CertificateAuthPlugin.__new__(CertificateAuthPlugin)
    lonely.services = None
    assert await lonely.authenticate(session=Session()) is False


async def test_a_session_is_judged_anew_at_every_connect(services):
    """What an earlier connection was let in as does not count."""
    _broker, auth, *_rest = broker(services)
    cert = certificate()
    await services.registry.add(Kind.DEVICE, "pump-1", cert)
    kept = session(cert, "pump-1")
    assert await auth.authenticate(session=kept)
    assert kept.attributes[MEMBER].name == "pump-1"
    await services.registry.revoke(Kind.DEVICE, "pump-1")
    assert await auth.authenticate(session=kept) is False


async def test_what_the_intake_refuses_is_dropped_and_counted(services, store):
    """A stock broker can't be held back."""
    store.failures.extend([StoreUnavailable("full")] * 1000)
    _broker, _auth, _acl, ingest, _presence = broker(services)
    for number in range(20):
        message = IncomingApplicationMessage(1, "devices/a/telemetry", 1, b"{}", False)
        await ingest.on_broker_message_received(client_id="a", message=message)
        await ingest.on_broker_message_broadcast(client_id="a", message=message)
        if number == 3:
            ingest._flush()
    ingest._flush()
    store.failures.clear()
    await until(lambda: services.ledger.totals.in_flight == 0)
    assert (services.ledger.totals.stored, services.ledger.totals.dropped_by) == (4, {"intake_full": 16})


async def test_clearing_a_retained_message_is_no_telemetry(services):
    """In a stock broker too: it is counted as routed. Without RETAIN an empty payload is quarantined."""
    _broker, _auth, _acl, ingest, _presence = broker(services)
    for retain in (True, False):
        message = IncomingApplicationMessage(1, "devices/a/telemetry", 1, b"", retain)
        await ingest.on_broker_message_received(client_id="a", message=message)
        await ingest.on_broker_message_broadcast(client_id="a", message=message)
    ingest._flush()
    await until(lambda: services.ledger.totals.in_flight == 0)
    assert (services.ledger.totals.routed, services.ledger.totals.quarantined) == (1, 1)


async def test_hooks_survive_what_brokers_hand_them(services):
    """No message, an empty topic, a $ topic: booked or passed over, never raised."""
    _broker, _auth, _acl, ingest, _presence = broker(services)
    await ingest.on_broker_message_received(client_id="a", message=None)
    for topic in ("", "$SYS/x", "a/+"):
        message = IncomingApplicationMessage(1, topic, 0, b"", False)
        await ingest.on_broker_message_received(client_id="a", message=message)
    assert services.ledger.totals.rejected_by == {"topic": 3}
    assert services.ledger.totals.in_flight == 0


def test_every_reason_is_a_label_that_counts():
    """The list of reasons is closed and complete."""
    connects = Connects(Ledger())
    for reason in REASONS:
        connects.refused(reason)
    for reason in CLOSE_REASONS:
        connects.closed(reason)
    families = list(connects.collect())
    assert len(families[0].samples) == len(REASONS) + 1
    assert len(families[1].samples) == len(CLOSE_REASONS)
    with pytest.raises(KeyError):
        connects.refused("anything")


async def test_an_application_publishes_for_a_device(services, store):
    """Telemetry of a back end that has the right is booked on the device it is of."""
    _broker, auth, acl, ingest, _presence = broker(services)
    cert = certificate(uris=("spiffe://fleetgate.local/application/back",))
    await services.registry.add(Kind.APPLICATION, "back", cert, ["devices/+/telemetry"])
    mine = session(cert, "back/1")
    assert await auth.authenticate(session=mine)
    _broker._sessions["back/1"] = (mine, None)
    message = IncomingApplicationMessage(1, "devices/pump-9/telemetry", 1, b"{}", False)
    await ingest.on_broker_message_received(client_id="back/1", message=message)
    assert await acl.topic_filtering(session=mine, topic=message.topic, action=Action.PUBLISH)
    await ingest.on_broker_message_broadcast(client_id="back/1", message=message)
    await until(lambda: services.ledger.totals.stored == 1)
    account = services.ledger.accounts["pump-9"]
    assert (account.received, account.stored, account.in_flight) == (1, 1, 0)
