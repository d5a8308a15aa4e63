"""The same pipeline fed from somebody else's broker, through aiomqtt. Acknowledged to that broker after the commit."""

import asyncio
import random
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, unquote, urlsplit

import aiomqtt
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from ingester.batch import Batch, Quarantined
from ingester.clock import Clock, now_us
from ingester.errors import SourceError
from ingester.ledger import OTHER, Ledger
from ingester.periodic import Background
from ingester.pipeline import Pipeline
from ingester.seen import SeenTopics, content_digest, topic_digest
from ingester.streams import Destination, Streams
from ingester.topics import NATIVE_FILTERS, NATIVE_TEMPLATES, topic_map

log = structlog.get_logger("fleetgate.source")

_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SESSION_SECONDS = 7 * 86_400
_RECEIVE_MAXIMUM = 10_000
_CANCEL_SECONDS = 1
_DRAIN_SECONDS = 1.5
_NOTHING = "fleetgate/nothing"
"""A filter nobody subscribes to."""
RETAINED = ("once", "ignore", "store")
_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where to read, what, and how topics name devices.

    `url` is mqtt://host[:port] or mqtts://..., with an optional user name in it; `topics` the filters to subscribe to,
    `$share/group/...` for a shared subscription; `templates` see `ingester.topics`. Raises SourceError on `check`.
    """

    url: str
    topics: tuple[str, ...] = NATIVE_FILTERS
    templates: tuple[str, ...] = NATIVE_TEMPLATES
    client_id: str = "fleetgate"
    version: str = "5"
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    password: str | None = field(default=None, repr=False)
    retained: str = "once"
    """What becomes of messages that the broker retains and sends to whoever subscribes: `store` them each time, `once`
    as long as they do not change, or `ignore` them."""

    @property
    def name(self) -> str:
        """The address without user name or password, for logs and labels."""
        try:
            parts = urlsplit(self.url)
            return f"{parts.scheme}://{parts.hostname}:{parts.port or _PORTS.get(parts.scheme)}"
        except ValueError:  # such as a port that is no number: `client` refuses it
            return f"{self.url.partition('://')[0][:20]}://?"

    def subscription(self, topic: str) -> tuple[str, Any]:
        """A filter with QoS 1; in MQTT 5 it leaves out our own messages to that broker, which are no telemetry."""
        if self.version != "5":
            return topic, 1
        shared = topic.startswith("$share/")  # no local would be a protocol error [MQTT-3.8.3-4]
        ignored = self.retained == "ignore" and not shared
        sent = SubscribeOptions.RETAIN_DO_NOT_SEND if ignored else SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
        return topic, SubscribeOptions(qos=1, noLocal=not shared, retainHandling=sent)

    def client(self, queue_type: "type[asyncio.Queue[aiomqtt.Message]]") -> aiomqtt.Client:
        """A client that is not connected yet. Raises SourceError with the setting that can't be."""
        try:
            parts = urlsplit(self.url)
            port = parts.port or _PORTS[parts.scheme]
            if not parts.hostname:
                raise SourceError(f"source url {self.name}: no host")
        except (KeyError, ValueError):
            raise SourceError("source url: must be mqtt://host[:port] or mqtts://host[:port]") from None
        if self.version not in {"5", "3.1.1"}:
            raise SourceError(f"source version {self.version!r}: must be 5 or 3.1.1")
        if self.retained not in RETAINED:
            raise SourceError(f"source retained {self.retained!r}: must be {', '.join(RETAINED)}")
        self._check_effect(parts)
        five = self.version == "5"
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = _SESSION_SECONDS
        properties.ReceiveMaximum = _RECEIVE_MAXIMUM
        return aiomqtt.Client(
            parts.hostname,
            port,
            identifier=self.client_id,
            username=unquote(parts.username) if parts.username else None,
            password=self.password or (unquote(parts.password) if parts.password else None),
            protocol=aiomqtt.ProtocolVersion.V5 if five else aiomqtt.ProtocolVersion.V311,
            clean_session=None if five else False,
            clean_start=False if five else 3,
            properties=properties if five else None,
            tls_context=self._tls() if parts.scheme == "mqtts" else None,
            queue_type=queue_type,
        )

    def _check_effect(self, parts: SplitResult) -> None:
        """Raises SourceError for a setting that has no effect beside the others."""
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise SourceError("source url: must be mqtt://host[:port], with nothing behind it")
        for key in ("ca", "certificate", "key"):
            if getattr(self, key) is not None and parts.scheme != "mqtts":
                raise SourceError(f"source {key}: is for mqtts://, and the url is {parts.scheme}://")
        if self.key is not None and self.certificate is None:
            raise SourceError("source key: needs a certificate")
        if self.password is not None and not parts.username:
            raise SourceError("source password: needs a user in the url, such as mqtt://user@host")
        if self.password is not None and parts.password:
            raise SourceError("source password: the url already has a password")
        for name in ("topics", "templates"):
            given = getattr(self, name)
            if twice := [one for at, one in enumerate(given) if one in given[:at]]:
                raise SourceError(f"source {name if name == 'topics' else 'map'}: {twice[0]!r} is given twice")

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except OSError as error:  # ssl.SSLError is one
            raise SourceError(f"source TLS files: {error}") from error
        return context


class MqttSource:
    """Keeps one subscription to a broker, and offers what comes. An async context manager.

    QoS 1 and 2: acknowledged after the commit; what the pipeline refuses waits here, which the broker's window of
    unacknowledged messages bounds. QoS 0: dropped and counted while the pipeline refuses.
    """

    def __init__(
        self,
        config: SourceConfig,
        pipeline: Pipeline,
        ledger: Ledger,
        streams: Streams | None = None,
        clock: Clock = now_us,
        background: Background | None = None,
        seen: SeenTopics | None = None,
    ) -> None:
        self._seen = seen if seen is not None else SeenTopics()
        self._streams = streams or Streams()
        self._config = config
        self._pipeline = pipeline
        self._ledger = ledger
        self._clock = clock
        self._map = topic_map(config.templates)
        self._open = _Gathered()
        self._held: deque[_Gathered] = deque()
        self._holding: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._client: aiomqtt.Client | None = None
        self._stopping = False
        self._outstanding = 0
        self._settled = asyncio.Event()
        self.connected = False
        self.reconnects = 0
        self._health = (background or Background()).add(f"source {config.name}")

    @property
    def held_since(self) -> int | None:
        """When the oldest message was received that the pipeline has not taken yet; None: it has all."""
        for gathered in (*self._held, self._open):
            if gathered.messages:
                return gathered.messages[0][2]
        return None

    async def settled(self) -> None:
        """Wait until the pipeline has taken all that was received so far."""
        now = self._clock()
        while (since := self.held_since) is not None and since <= now:
            await self._pipeline.room()
            await asyncio.sleep(0.01)  # it is offered by a task of its own

    @property
    def name(self) -> str:
        """The broker's address."""
        return self._config.name

    async def publish(self, topic: str, payload: bytes) -> bool:
        """Publish to that broker with QoS 0; False: it is away."""
        client = self._client
        if client is None or self._stopping:
            return False
        try:
            await client.publish(topic, payload)
        except (aiomqtt.MqttError, OSError) as error:
            log.warning("not published to the source", source=self.name, error=str(error))
            return False
        return True

    async def __aenter__(self) -> Self:
        self._config.client(asyncio.Queue)  # settings that can't work are an error now, not a retry for ever
        self._task = asyncio.create_task(self._run(), name="source")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take nothing more; wait a little until what was taken is committed and acknowledged; disconnect."""
        self._stopping = True
        self._flush()
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self._outstanding:
                    self._settled.clear()
                    await self._settled.wait()
                if self._client is not None:
                    # A round trip behind the acknowledgements: closing a socket with unread messages in it resets the
                    # connection, and the broker would lose what it has not read yet.
                    await self._client.unsubscribe(_NOTHING)
        except (TimeoutError, aiomqtt.MqttError) as error:
            log.warning("source not drained", source=self.name, messages=self._outstanding, error=str(error))
        tasks = {task for task in (self._task, self._holding) if task is not None}
        while tasks:
            # Again and again: Python 3.11's wait_for, which the client uses, can swallow a cancellation, and what the
            # client waits for next may never come.
            for task in tasks:
                task.cancel()
            _done, tasks = await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)

    async def _run(self) -> None:
        attempt = 0
        while not self._stopping:
            try:
                await self._session()
            except (aiomqtt.MqttError, OSError) as error:
                log.warning("source disconnected", source=self.name, error=str(error))
                self._health.fail(error, self._clock(), known=True)
            except Exception as error:  # noqa: BLE001 - supervision point: `fail` logs it with its traceback
                self._health.fail(error, self._clock(), known=False)
            attempt = 0 if self.connected else attempt + 1
            self.connected = False
            self._client = None
            self.reconnects += 1
            pause = _BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)]
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    async def _session(self) -> None:
        generation: list[aiomqtt.Client] = []
        gather = self._gather

        class Gathering(asyncio.Queue[aiomqtt.Message]):
            """Takes messages where the client puts them: no task is woken for each."""

            def put_nowait(self, item: aiomqtt.Message) -> None:
                gather(generation[0], item)

        client = self._config.client(Gathering)
        generation.append(client)
        # aiomqtt has no switch for this and acknowledges on receipt; paho, which it wraps, has: tests/contracts.
        client._client.manual_ack_set(True)  # noqa: SLF001
        async with client:
            codes = await client.subscribe([self._config.subscription(topic) for topic in self._config.topics])
            refused = [topic for topic, code in zip(self._config.topics, codes, strict=True) if _code(code) >= 0x80]
            if refused:
                raise aiomqtt.MqttError(f"the broker refuses the subscription {', '.join(refused)}")
            self.connected = True
            self._health.succeed(self._clock())
            self._client = client
            if self._stopping:
                return
            log.info("source connected", source=self.name, topics=list(self._config.topics))
            async for _ in client.messages:
                pass  # none come this way; it ends with the error that ends the connection

    def _gather(self, client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        if self._stopping:
            return
        if not self._open.messages:
            asyncio.get_running_loop().call_soon(self._flush)
        self._open.messages.append((client, message, self._clock()))

    def _flush(self) -> None:
        gathered, self._open = self._open, _Gathered()
        self._outstanding += len(gathered.messages)
        for _client, message, received in gathered.messages:
            device = self._device(message)
            self._ledger.received(device, message.qos, len(message.payload), received)
        if self._held or not self._offer(gathered):
            self._hold(gathered)

    def _destination(self, message: aiomqtt.Message) -> Destination | None:
        """What a message is telemetry of: as a stream is defined, else as the source's own templates say."""
        topic = message.topic.value
        found = self._streams.route(topic, "")
        if found is None or found.decoder is None:
            named = self._map(topic)
            found = Destination(*named) if named is not None else None
        content_type = getattr(message.properties, "ContentType", None)
        if found is not None and content_type:
            found = self._streams.chosen(found, topic, content_type)
        if found is None or found.decoder is None or not found.decoder.decoder.remembers:
            return found
        return replace(found, decoder=replace(found.decoder, source=self.name))

    def _device(self, message: aiomqtt.Message) -> str:
        found = self._destination(message)
        return OTHER if found is None else found.device

    def _hold(self, gathered: "_Gathered") -> None:
        """The intake is full: QoS 0 is lost, the rest waits its turn."""
        keep = _Gathered()
        for entry in gathered.messages:
            message = entry[1]
            if message.qos:
                keep.messages.append(entry)
            else:
                device = self._device(message)
                self._ledger.dropped(device, "intake_full")
                self._outstanding -= 1
        if keep.messages:
            self._held.append(keep)
            if self._holding is None or self._holding.done():
                self._holding = asyncio.create_task(self._offer_held(), name="source-held")

    async def _offer_held(self) -> None:
        while self._held:
            if self._offer(self._held[0]):
                self._held.popleft()
            else:
                await self._pipeline.room()

    def _offer(self, gathered: "_Gathered") -> bool:
        """Offer all of it, in order, or as far as it goes: then what is left stays in `gathered`."""
        while gathered.messages:
            taken = self._offer_run(gathered.messages)
            if not taken:
                return False
            del gathered.messages[:taken]
        return True

    def _offer_run(self, messages: "list[_Received]") -> int:
        """Offer the longest run of messages that are taken alike: stored, known, or not understood; how many were."""
        run = _Run(Batch())
        for client, message, received in messages[:_OFFER]:
            if self._is_known(message, run):
                if run.acks:
                    break
                return self._leave_out(messages)
            found = self._destination(message)
            if found is None and run.acks:
                break
            self._note(message, run)
            run.acks.append(_ack(client, message))
            if found is None:
                item = Quarantined(
                    received, "", "", "topic", "no device in this topic", message.payload, message.topic.value
                )
                return self._offered(run, partial(self._pipeline.offer_unmapped, item, run.batch))
            found = self._streams.admitted(found, message.topic.value)
            run.batch.append(found.device, found.stream, received, message.payload, found.reader)
            run.batch.topics.append(message.topic.value)
        return self._offered(run, partial(self._pipeline.offer, run.batch))

    def _offered(self, run: "_Run", offer: Callable[[], bool]) -> int:
        count = len(run.acks)
        run.batch.acks.append(partial(self._acknowledge, count, run.acks))
        run.batch.seen = written = self._seen.to_write(self.name, run.again, run.live)
        if not offer():
            return 0
        self._seen.record(self.name, run.again, run.live, written)
        return count

    def _is_known(self, message: aiomqtt.Message, run: "_Run | None" = None) -> bool:
        """Whether a message is left out: its broker retained it, and it came already, or none of them is wanted."""
        if not message.retain or self._config.retained == "store":
            return False
        if self._config.retained == "ignore":
            return True
        topic = topic_digest(message.topic.value)
        last = run.last(topic) if run is not None else None
        return (last or self._seen.last(self.name, topic)) == content_digest(message.payload)

    def _note(self, message: aiomqtt.Message, run: "_Run") -> None:
        if self._config.retained == "once":
            topic, content = topic_digest(message.topic.value), content_digest(message.payload)
            (run.again if message.retain else run.live)[topic] = content
            (run.live if message.retain else run.again).pop(topic, None)

    def _leave_out(self, messages: "list[_Received]") -> int:
        """Acknowledge those that are left out, as soon as all that came before them is committed."""
        acks: list[Callable[[], Any]] = []
        for client, message, _received in messages[:_OFFER]:
            if not self._is_known(message):
                break
            if self._config.retained == "once":
                self._ledger.duplicate(self._device(message))
            else:
                self._ledger.dropped(self._device(message), "retained")
            acks.append(_ack(client, message))
        self._pipeline.when_settled(partial(self._acknowledge, len(acks), acks))
        return len(acks)

    def _acknowledge(self, count: int, acks: list[Callable[[], Any]]) -> None:
        self._outstanding -= count
        self._settled.set()
        for ack in acks:
            ack()


_OFFER = 1000
_Received = tuple[aiomqtt.Client, aiomqtt.Message, int]
"""A message, the client it came from, and when."""


@dataclass(slots=True)
class _Run:
    """Messages that are offered together, and what came last by their topics: of retained ones, and of others."""

    batch: Batch
    acks: list[Callable[[], Any]] = field(default_factory=list)
    again: dict[bytes, bytes] = field(default_factory=dict)
    live: dict[bytes, bytes] = field(default_factory=dict)

    def last(self, topic: bytes) -> bytes | None:
        return self.again.get(topic) or self.live.get(topic)


class _Gathered:
    """Messages that came in one turn of the loop, with the client they came from and when."""

    def __init__(self) -> None:
        self.messages: list[_Received] = []


def _code(reason: Any) -> int:
    return int(getattr(reason, "value", reason))  # MQTT 5 reason codes are objects, 3.1.1 return codes numbers


def _ack(client: aiomqtt.Client, message: aiomqtt.Message) -> Callable[[], Any]:
    # On a connection that has gone it does nothing: the broker sends the message again on the next one.
    return partial(client._client.ack, message.mid, message.qos)  # noqa: SLF001 - see manual_ack_set above
