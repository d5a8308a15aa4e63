"""Telemetry out of a real Mosquitto: mapped, stored, acknowledged after the commit, over every interruption."""

import asyncio
import signal
import socket
import subprocess
import time
from pathlib import Path

import aiomqtt
import pytest

from ingester.errors import SourceError, StoreUnavailable
from ingester.ledger import Ledger
from ingester.memory import MemoryStore
from ingester.pipeline import Bounds, Pipeline
from ingester.seen import SeenTopics
from ingester.source_mqtt import MqttSource, SourceConfig
from ingester.store import Selection
from ingester.streams import Streams
from ingester.streams.definition import from_object
from tests.system.gate import Gate
from tests.waiting import until, wait_until

pytestmark = pytest.mark.system


class Mosquitto:
    """A broker on a port of its own, which remembers sessions over a restart."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "m.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 100000\n"
            f"persistence true\npersistence_location {folder}/\n{settings}"
        )
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["mosquitto", "-c", self._folder / "m.conf"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin"},
        )
        wait_until(self._answers)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def mosquitto(need, tmp_path):
    need("mosquitto")
    broker = Mosquitto(tmp_path)
    broker.start()
    yield broker
    broker.stop()


async def publish(broker: Mosquitto, messages: list[tuple[str, bytes]], qos: int = 1) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        for topic, payload in messages:
            await client.publish(topic, payload, qos=qos)


def config(broker: Mosquitto, **more) -> SourceConfig:
    return SourceConfig(
        **{
            "url": f"mqtt://127.0.0.1:{broker.port}",
            "topics": ("plant/#",),
            "templates": ("plant/{device}/{stream}",),
            **more,
        }
    )


async def test_other_formats(mosquitto):
    """Definitions of streams count here too, before the source's own templates."""
    store, ledger, streams = MemoryStore(), Ledger(), Streams()
    streams.define([from_object("numbers", {"filter": "plant/{device}/number", "codec": "text"})])
    async with (
        Pipeline(store, ledger) as pipeline,
        MqttSource(config(mosquitto), pipeline, ledger, streams) as source,
    ):
        await until(lambda: source.connected)
        await publish(mosquitto, [("plant/p1/number", b"21.5"), ("plant/p1/temp", b'{"v": 1}')])
        await until(lambda: ledger.totals.received == 2 and ledger.totals.in_flight == 0)
    assert [(row.stream, row.fields) for row in await store.newest(Selection("p1"), 10)] == [
        ("numbers", {"value": 21.5}),
        ("temp", {"v": 1}),
    ]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_mapped_stored_and_the_rest_quarantined(mosquitto, version: str):
    """Device and stream come out of the topic; a topic that means neither is quarantined with its name."""
    store, ledger = MemoryStore(), Ledger()
    async with (
        Pipeline(store, ledger) as pipeline,
        MqttSource(config(mosquitto, version=version), pipeline, ledger) as source,
    ):
        await until(lambda: source.connected)
        messages = [
            ("plant/p1/temp/a", b'{"v": 1}'),
            ("plant/p2", b'{"v": 2}'),
            ("plant/p2/x", b"bad"),
            ("plant/p1/temp", b'{"v": 3}'),
        ]
        await publish(mosquitto, messages)
        await publish(mosquitto, [("plant/q0/x", b'{"v": 4}')], qos=0)
        await publish(mosquitto, [("plant/q2/x", b'{"v": 5}')], qos=2)
        await until(lambda: ledger.totals.received == 6 and ledger.totals.in_flight == 0)
    assert list(zip(store.messages.devices, store.messages.streams, strict=True)) == [
        ("p1", "temp/a"),
        ("p1", "temp"),
        ("q0", "x"),
        ("q2", "x"),
    ]
    assert [(item.reason, item.topic) for item in await store.quarantined()] == [
        ("topic", "plant/p2"),
        ("not_json", "plant/p2/x"),
    ]
    assert ledger.totals.received_by_qos == [1, 5, 0]


async def test_acknowledged_after_the_commit(mosquitto):
    """What was not committed is sent again by the broker after a crash of ours; what was is not."""
    down = MemoryStore([StoreUnavailable("disk full")] * 10_000)
    ledger = Ledger()
    async with (
        Pipeline(down, ledger, drain_seconds=0) as pipeline,
        MqttSource(config(mosquitto), pipeline, ledger) as source,
    ):
        await until(lambda: source.connected)
        await publish(mosquitto, [("plant/a/s", b'{"n": %d}' % n) for n in range(10)])
        await until(lambda: ledger.totals.received == 10)
    assert ledger.totals.stored == 0
    store, ledger = MemoryStore(), Ledger()
    async with Pipeline(store, ledger) as pipeline, MqttSource(config(mosquitto), pipeline, ledger):
        await until(lambda: ledger.totals.stored == 10)
    assert store.messages.payloads == [b'{"n": %d}' % n for n in range(10)]
    store, ledger = MemoryStore(), Ledger()
    async with Pipeline(store, ledger) as pipeline, MqttSource(config(mosquitto), pipeline, ledger) as source:
        await until(lambda: source.connected)
        await publish(mosquitto, [("plant/a/s", b'{"n": 99}')])
        await until(lambda: ledger.totals.stored)
    assert store.messages.payloads == [b'{"n": 99}']


async def test_ends_at_any_moment(mosquitto):
    """Leaving it ends it, also while it connects and subscribes: a cancellation is never lost on the way."""
    async with Pipeline(MemoryStore(), Ledger()) as pipeline:
        for step in range(150):
            async with asyncio.timeout(5):
                async with MqttSource(config(mosquitto), pipeline, Ledger()):
                    await asyncio.sleep(step * 0.0001)


async def test_reconnects_and_misses_nothing(mosquitto):
    """The broker goes away and comes back with what it kept for the session."""
    store, ledger = MemoryStore(), Ledger()
    async with Pipeline(store, ledger) as pipeline, MqttSource(config(mosquitto), pipeline, ledger) as source:
        await until(lambda: source.connected)
        await publish(mosquitto, [("plant/a/s", b'{"n": 0}')])
        await until(lambda: ledger.totals.stored == 1)
        await asyncio.to_thread(mosquitto.stop)
        await until(lambda: not source.connected)
        await asyncio.to_thread(mosquitto.start)
        await publish(mosquitto, [("plant/a/s", b'{"n": %d}' % n) for n in range(1, 20)])
        await until(lambda: ledger.totals.stored == 20, 20)
        assert source.reconnects >= 1
    assert sorted(store.messages.payloads) == sorted(b'{"n": %d}' % n for n in range(20))


async def test_a_full_intake_holds_qos_1_back_and_drops_qos_0(mosquitto):
    """Case 5 at the source: nothing with QoS 1 is lost, order is kept, memory is bounded, the account is exact."""
    store, ledger = MemoryStore([StoreUnavailable("locked")] * 12), Ledger()
    bounds = Bounds(queue_messages=50)
    async with (
        Pipeline(store, ledger, bounds=bounds) as pipeline,
        MqttSource(config(mosquitto), pipeline, ledger) as source,
    ):
        await until(lambda: source.connected)
        await publish(mosquitto, [("plant/a/one", b'{"n": %d}' % n) for n in range(300)])
        await publish(mosquitto, [("plant/a/zero", b'{"n": %d}' % n) for n in range(300)], qos=0)
        await until(lambda: ledger.totals.in_flight == 0 and ledger.totals.received > 300, 30)
        await until(lambda: ledger.totals.stored + ledger.totals.dropped == 600, 30)
    kept = [
        payload
        for stream, payload in zip(store.messages.streams, store.messages.payloads, strict=True)
        if stream == "one"
    ]
    assert kept == [b'{"n": %d}' % n for n in range(300)]
    assert ledger.totals.dropped == ledger.totals.dropped_by.get("intake_full", 0)


async def test_leaving_commits_and_acknowledges_what_was_taken(mosquitto):
    """Case 19: stopped under load, what was stored is not sent again."""
    stores = []
    for round_ in range(2):
        store, ledger = MemoryStore(), Ledger()
        stores.append(store)
        async with Pipeline(store, ledger) as pipeline, MqttSource(config(mosquitto), pipeline, ledger) as source:
            await until(lambda source=source: source.connected)
            if round_ == 0:
                sending = asyncio.create_task(publish(mosquitto, [("plant/a/s", b'{"n": %d}' % n) for n in range(500)]))
                await until(lambda ledger=ledger: ledger.totals.stored > 50)
                began = time.monotonic()
            else:
                await sending
                await until(lambda: sum(len(made.messages) for made in stores) >= 500)
        if round_ == 0:
            assert time.monotonic() - began < 5
            assert ledger.totals.in_flight == 0
    assert stores[0].messages.payloads + stores[1].messages.payloads == [b'{"n": %d}' % n for n in range(500)]


async def test_a_shared_subscription(mosquitto):
    """Two sources of one group share the messages between them."""
    store, ledger = MemoryStore(), Ledger()
    async with Pipeline(store, ledger) as pipeline:
        one, two = (config(mosquitto, topics=("$share/g/plant/#",), client_id=name) for name in ("one", "two"))
        async with MqttSource(one, pipeline, ledger) as first, MqttSource(two, pipeline, ledger) as second:
            await until(lambda: first.connected and second.connected)
            await publish(mosquitto, [("plant/a/s", b'{"n": %d}' % n) for n in range(50)])
            await until(lambda: ledger.totals.stored == 50)
    assert sorted(store.messages.payloads) == sorted(b'{"n": %d}' % n for n in range(50))


@pytest.mark.parametrize(
    "more",
    [
        {"url": "http://x"},
        {"url": "mqtt://"},
        {"url": "mqtt://x:y"},
        {"url": "mqtt://[x"},
        {"version": "4"},
        {"url": "mqtts://x", "ca": Path("/nowhere")},
    ],
)
async def test_settings_that_cannot_work(more):
    """They are an error at the start, not a retry for ever."""
    ledger = Ledger()
    async with Pipeline(MemoryStore(), ledger) as pipeline:
        with pytest.raises(SourceError, match="source"):
            async with MqttSource(SourceConfig(**{"url": "mqtt://127.0.0.1:1", **more}), pipeline, ledger):
                pass


async def test_the_ingest_command(mosquitto, tmp_path):
    """A server of its own over its own state, with /metrics; the message is found with query."""
    command = (
        "ingest",
        "--from",
        f"mqtt://127.0.0.1:{mosquitto.port}",
        "--topic",
        "plant/#",
        "--map",
        "plant/{device}/{stream}",
    )
    with Gate(tmp_path / "gate", command=command) as gate:
        assert "mqtts" not in gate.addresses
        await asyncio.to_thread(
            wait_until, lambda: gate.get("/healthz") == "ok\n" and gate.logged(event="source connected")
        )
        await publish(mosquitto, [("plant/p1/temp", b'{"v": 1}'), ("plant/p1", b"x")])
        await asyncio.to_thread(gate.wait_for, "fleetgate_messages_stored_total", 1)
        await asyncio.to_thread(gate.wait_for, "fleetgate_messages_quarantined_total", 1, reason="topic")
        assert gate.json("query", "p1")[0]["stream"] == "temp"
        assert gate.metrics()['fleetgate_device_messages_total{device="p1"}'] == 1
        gate.check_account()


async def test_a_source_in_the_settings_feeds_a_running_server(mosquitto, tmp_path):
    """[[source]] beside the devices of the server itself; /metrics says whether it is connected."""
    settings = tmp_path / "f.toml"
    settings.write_text(f'[[source]]\nurl = "mqtt://127.0.0.1:{mosquitto.port}"\n')
    with Gate(tmp_path / "gate", command=("serve", "--config", str(settings))) as gate:
        await asyncio.to_thread(wait_until, lambda: gate.logged(event="source connected"))
        assert gate.total("fleetgate_source_connected") == 1
        await publish(mosquitto, [("devices/native/telemetry/a/b", b'{"v": 1}')])
        await asyncio.to_thread(gate.wait_for, "fleetgate_messages_stored_total", 1)
        assert gate.json("query", "native")[0]["stream"] == "a/b"


async def retain(broker: Mosquitto, topic: str, payload: bytes) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.publish(topic, payload, qos=1, retain=True)


@pytest.mark.parametrize(("retained", "version"), [("once", "5"), ("once", "3.1.1"), ("store", "5")])
async def test_what_is_retained_and_comes_again(mosquitto, retained: str, version: str):
    """At each start the broker sends it: stored once until it changes, also what came live, and what can't be read."""
    settings = config(mosquitto, retained=retained, version=version, topics=("plant/#", "plant/p1/+"))
    store, seen = MemoryStore(), SeenTopics()
    await retain(mosquitto, "plant/p1/a", b'{"v": 1}')
    await retain(mosquitto, "plant/nobody", b"1")

    async def read(*, live: bytes = b"") -> Ledger:
        ledger, before = Ledger(), len(store.messages)
        async with (
            Pipeline(store, ledger) as pipeline,
            MqttSource(settings, pipeline, ledger, seen=seen) as source,
        ):
            await until(lambda: source.connected)
            if live:
                await retain(mosquitto, "plant/p2/b", live)
                await publish(mosquitto, [("plant/p2/b", live), ("plant/p3/x", b"{}")])
            else:
                await publish(mosquitto, [("plant/p3/x", b"{}")])
            await until(lambda: "p3" in store.messages.devices[before:] and ledger.totals.in_flight == 0)
        return ledger

    first, second, third = await read(), await read(live=b'{"v": 5}'), await read()
    await retain(mosquitto, "plant/p2/b", b'{"v": 6}')
    await read()
    stored = [
        (device, payload)
        for device, payload in zip(store.messages.devices, store.messages.payloads, strict=True)
        if device != "p3"
    ]
    if retained == "once":
        assert stored == [
            ("p1", b'{"v": 1}'), ("p2", b'{"v": 5}'), ("p2", b'{"v": 5}'), ("p2", b'{"v": 6}'),
        ]  # fmt: skip
        assert len(await store.quarantined()) == 1
        assert (first.totals.duplicate, third.totals.duplicate) == (1, 4)
        assert second.totals.received == second.totals.stored + second.totals.duplicate
    else:
        assert len(stored) > 6
        assert first.totals.duplicate == 0


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_what_is_retained_is_ignored(mosquitto, version: str):
    """Where the source says so; what comes while it reads is stored, retained or not."""
    settings = config(mosquitto, retained="ignore", version=version)
    store, ledger = MemoryStore(), Ledger()
    await retain(mosquitto, "plant/p1/a", b'{"v": 1}')
    async with Pipeline(store, ledger) as pipeline, MqttSource(settings, pipeline, ledger) as source:
        await until(lambda: source.connected)
        await retain(mosquitto, "plant/p1/a", b'{"v": 2}')
        await until(lambda: ledger.totals.stored == 1 and ledger.totals.in_flight == 0)
    assert store.messages.payloads == [b'{"v": 2}']
    assert ledger.totals.dropped_by == ({} if version == "5" else {"retained": 1})
    with pytest.raises(SourceError, match="retained 'never': must be once"):
        config(mosquitto, retained="never").client(asyncio.Queue)


async def test_what_is_retained_comes_again_after_a_lost_connection(mosquitto):
    """A source that connects again is sent it again, and stores it no second time."""
    store, ledger = MemoryStore(), Ledger()
    await retain(mosquitto, "plant/p1/a", b'{"v": 1}')
    async with Pipeline(store, ledger) as pipeline, MqttSource(config(mosquitto), pipeline, ledger) as source:
        await until(lambda: ledger.totals.stored == 1)
        mosquitto.stop()
        await until(lambda: not source.connected)
        mosquitto.start()
        await until(lambda: source.connected and ledger.totals.duplicate == 1)
    assert store.messages.payloads == [b'{"v": 1}']


def test_what_is_retained_is_known_after_a_restart(mosquitto, tmp_path):
    """The program remembers it on disk, in the transaction that stores it: a kill changes nothing."""

    async def fill() -> None:
        await retain(mosquitto, "plant/p1/a", b'{"v": 1}')

    asyncio.run(fill())
    command = (
        "ingest", "--from", f"mqtt://127.0.0.1:{mosquitto.port}", "--topic", "plant/#",
        "--map", "plant/{device}/{stream}",
    )  # fmt: skip
    folder = tmp_path / "gate"
    for kind in ("stored", "duplicate", "duplicate"):
        with Gate(folder, command=command) as gate:
            wait_until(lambda: gate.total(f"fleetgate_messages_{kind}_total") == 1)  # noqa: B023 - waited for here
            gate.stop(signal.SIGKILL if kind == "stored" else signal.SIGTERM)
    with Gate(folder, command=(*command, "--retained", "store")) as gate:
        gate.wait_for("fleetgate_messages_stored_total", 1)
        assert len(gate.json("query", "p1")) == 2
