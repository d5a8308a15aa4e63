"""The parts of the program without its sockets: what the API and the commands work on."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector

from broker_plugins.auth import owner_of, owner_of_device
from broker_plugins.broker import Broker
from broker_plugins.connections import Connects
from broker_plugins.engine.engine import Engine
from broker_plugins.engine.limits import Limits as EngineLimits
from broker_plugins.engine.message import Message
from broker_plugins.engine.session import QueueLimits
from broker_plugins.engine_metrics import EngineCollector
from broker_plugins.refusals import Refusals
from broker_plugins.services import Services
from fleet.audit.model import Act, Outcome, Result, Via
from fleet.audit.service import AuditLog
from fleet.authority import Authority
from fleet.authority.issuers import BuiltInIssuer, HookIssuer
from fleet.census import Census
from fleet.devices import Devices
from fleet.hook import HOOKS
from fleet.identity import Kind, Rules
from fleet.judge import Judge
from fleet.lifecycle.service import Lifecycle
from fleet.ocsp import OcspResponder
from fleet.operators.guessing import Guessing
from fleet.operators.service import Operators
from fleet.operators.sessions import Sessions
from fleet.policy.decisions import Bounds as DecisionBounds
from fleet.policy.decisions import Decisions
from fleet.policy.service import Policies
from fleet.presence import Presence
from fleet.presence.model import Event, Expected, Flapping
from fleet.presence.supervision import Supervision
from fleet.provisioning.authorities import Authorities
from fleet.provisioning.claims import Claims
from fleet.provisioning.enrolments import Enrolments
from fleet.provisioning.service import Issuer, Provisioning
from fleet.provisioning.templates import Templates
from fleet.quota.service import Quotas
from fleet.quota.usage import Usage
from fleet.registry import Groups, Inventory, Member, Registry, State, Types
from fleet.registry.database import Database
from fleet.revoked import RevokedList
from fleet.state import RESTORED, StateFolder, StateLock
from fleet.streams import StreamDefinitions
from fleet.topics import PRESENCE_LEVELS, presence_topic
from fleetgate.analytics.service import Analytics
from fleetgate.changes import Changes
from fleetgate.datasets import Datasets
from fleetgate.effects import check_effects
from fleetgate.errors import SettingsError
from fleetgate.happened import said
from fleetgate.history import available, policy_of, rules_of
from fleetgate.kept import KeptTelemetry
from fleetgate.operations import Operations
from fleetgate.postgres import open_store, registry_database
from fleetgate.rebirths import Rebirths
from fleetgate.settings import DecisionsSettings, PresenceSettings, Settings, configured_streams
from fleetgate.timekeeping import Timekeeping
from fleetgate.times import iso
from fleetgate.tls import DeviceTls
from fleetgate.top import Top
from ingester.clock import Clock, now_us
from ingester.decode import Limits
from ingester.device_series import DeviceSeries
from ingester.history.metrics import HistoryCollector
from ingester.history.rules import Rules as HistoryRules
from ingester.history.sealer import Sealer
from ingester.history.store import TieredStore
from ingester.ingest_log import IngestLog
from ingester.last_values import LastValues
from ingester.ledger import Ledger
from ingester.metrics import BackgroundCollector, Exposition, IngestCollector
from ingester.observer import Observer
from ingester.periodic import Background
from ingester.pipeline import Bounds, Pipeline
from ingester.seen import SeenTopics
from ingester.source_mqtt import MqttSource
from ingester.sqlite import SqliteStore
from ingester.sqlite.births import KeptBirths
from ingester.sqlite.seen import KeptSeenTopics
from ingester.streams import Streams
from ingester.streams.known import KnownStreams, StreamBounds
from ingester.tail import Tail

if TYPE_CHECKING:
    from ingester.postgres.mover import Mover

_STAMPED_US = 1_000_000
"""Between the moment when a message is stamped and that when it is on its way to the store: at most."""
_WRONG_TOKENS = 30
"""Different ones, from one address in five minutes."""
_PASSPHRASE = "FLEETGATE_CA_PASSPHRASE"


@dataclass(frozen=True)
class Core:
    """Everything but the sockets: what the API and the commands work on."""

    settings: Settings
    state: StateFolder
    authority: Authority
    issuer: Issuer
    rules: Rules
    judge: Judge
    registry: Registry
    types: Types
    groups: Groups
    policies: Policies
    decisions: Decisions
    inventory: Inventory
    provisioning: Provisioning
    quotas: Quotas
    usage: Usage
    devices: Devices
    lifecycle: Lifecycle
    streams: StreamDefinitions
    services: Services
    presence: Presence
    supervision: Supervision
    store: TieredStore
    sealer: Sealer
    mover: "Mover | None"
    ledger: Ledger
    pipeline: Pipeline
    tail: Tail
    observer: Observer
    last_values: LastValues
    analytics: Analytics
    datasets: Datasets
    connects: Connects
    broker: Broker
    tls: DeviceTls
    limits: Limits
    metrics: CollectorRegistry
    exposition: Exposition
    sources: list[MqttSource]
    seen: SeenTopics
    operations: Operations
    changes: Changes
    top: Top
    revoked: RevokedList
    ocsp: OcspResponder
    operators: Operators
    sessions: Sessions
    guessing: Guessing
    guessed_tokens: Guessing
    audit: AuditLog
    background: Background
    clocks: Timekeeping

    async def settled(self) -> int:
        """A time up to which everything that was received is committed."""
        return await _settled(self.broker.engine, self.sources)

    def not_ready(self) -> str | None:
        """Why nothing should be sent here now; None when all is well."""
        failing = self.pipeline.failing or self.broker.engine.store.failing
        if failing is not None:
            return f"the store can't write: {failing}"
        return self.clocks.problem()


@asynccontextmanager
async def open_core(settings: Settings, state: StateFolder, clock: Clock = now_us) -> AsyncIterator[Core]:
    """Take ownership of a state folder and open what is in it; it is made when it is missing.

    `clock` is the wall clock. Raises ClockError where certificates are to be made, and it is not believed.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(_lock(settings, state))
        authority = await asyncio.to_thread(make_authority, settings, state, clock)
        background, metrics = Background(), CollectorRegistry()
        clocks = await stack.enter_async_context(_timekeeping(settings, state, clock, background))
        wall = clocks.wall
        database = registry_database(settings.registry.url.get_secret_value(), state.fleet_db)
        registry = await stack.enter_async_context(Registry(database, wall, background=background))
        audit = await stack.enter_async_context(AuditLog(registry.database, authority, wall))
        await _note_restored(state, audit)
        operators = await stack.enter_async_context(
            Operators(registry.database, state.token, wall, background=background)
        )
        types = await stack.enter_async_context(Types(registry.database, wall))
        groups = await stack.enter_async_context(Groups(registry, wall))
        limits = Limits(settings.ingest.max_payload_bytes, settings.ingest.max_depth)
        streams = await stack.enter_async_context(
            StreamDefinitions(
                registry,
                groups,
                configured_streams(settings),
                limits,
                known=_known_streams(settings),
                background=background,
            )
        )
        rules = partial(history_rules, streams, settings)
        store, mover = await _telemetry(stack, settings, state, rules, metrics, streams.streams, clocks, background)
        sealer = await stack.enter_async_context(
            Sealer(store, policy_of(settings.history), rules, wall, clocks.expires_by, background=background)
        )
        ledger, tail = Ledger(), Tail(limits)
        presence, supervision = await _presence(stack, settings.presence, registry, types, ledger, clocks, background)
        observer, last_values = Observer(), LastValues(store)
        taps = [IngestLog(wall).committed, tail.committed, observer.committed, last_values.committed]
        pipeline = await stack.enter_async_context(
            Pipeline(
                store,
                ledger,
                bounds=_bounds(settings),
                limits=limits,
                taps=taps,
                memory=await stack.enter_async_context(KeptBirths(streams.births, store.journal)),
            )
        )
        connects, naming = Connects(ledger), Rules(settings.identity.source, settings.identity.trust_domain)
        inventory = Inventory(registry, types, groups)
        authorities, tls = await _tls(stack, settings, state, authority, registry.database, wall, background)
        judge = Judge(tls.verify, partial(authorities.rules, otherwise=naming), tls.check, clock)
        issuer = make_issuer(settings, authority, judge, clocks.sure)
        provisioning = await _provisioning(stack, registry, inventory, groups, issuer, authorities, wall)
        decisions = await stack.enter_async_context(_decisions(settings.decisions, registry, clocks, background))
        policies = await stack.enter_async_context(
            Policies(registry, groups, types, decisions, wall, background=background)
        )
        usage = await stack.enter_async_context(
            Usage(registry.database, ledger, wall, background=background, expires_by=clocks.expires_by)
        )
        quotas = await stack.enter_async_context(Quotas(registry, groups, usage, audit=audit, background=background))
        services = Services(
            registry,
            policies,
            decisions,
            pipeline,
            ledger,
            connects,
            Refusals(tail, wall),
            naming,
            wall,
            clocks.elapsed,
            revoked=tls.check,
            provisioning=provisioning,
            quotas=quotas,
            streams=streams.streams,
            presence=presence,
        )
        broker = await stack.enter_async_context(
            Broker(
                {"plugins": settings.mqtt.plugins},
                services=services,
                store=store,
                path=state.mqtt_db,
                limits=engine_limits(settings),
            )
        )
        sources: list[MqttSource] = []
        _follow(registry, policies, quotas, tls, broker.engine)
        kept = KeptTelemetry(store, broker.engine, sources, last_values, observer, tail, streams.births)
        operations = await stack.enter_async_context(Operations(audit, wall))
        changes = _changes(tail, registry, presence, operations, broker.engine)
        devices = await _devices(stack, registry, decisions, audit, kept, background)
        lifecycle = await stack.enter_async_context(
            Lifecycle(registry, inventory, audit, devices, wall, background, clocks.expires_by)
        )
        elsewhere = mover is not None and not seals(settings)
        analytics = Analytics(store, registry, inventory, presence, elsewhere=elsewhere)
        datasets = await stack.enter_async_context(
            Datasets(
                registry.database,
                analytics,
                state.datasets,
                partial(_settled, broker.engine, sources),
                wall,
                background,
                clocks.last_set,
            )
        )
        series = DeviceSeries(ledger, settings.metrics.max_devices, int(settings.metrics.stale_after * 1e6))
        for collector in (
            IngestCollector(ledger, pipeline, store, series, sources, streams.streams.known),
            connects,
            HistoryCollector(store, sealer, [part.culprits for part in (sealer, mover) if part is not None]),
            EngineCollector(broker),
            await stack.enter_async_context(Census(registry, wall, background=background)),
            supervision,
            await stack.enter_async_context(_rebirths(settings, streams, broker.engine, sources, background)),
            BackgroundCollector(background),
            clocks,
        ):
            metrics.register(collector)
        ProcessCollector(registry=metrics)
        yield Core(
            settings,
            state,
            authority,
            issuer,
            naming,
            judge,
            registry,
            types,
            groups,
            policies,
            decisions,
            inventory,
            provisioning,
            quotas,
            usage,
            devices,
            lifecycle,
            streams,
            services,
            presence,
            supervision,
            store,
            sealer,
            mover,
            ledger,
            pipeline,
            tail,
            observer,
            last_values,
            analytics,
            datasets,
            connects,
            broker,
            tls,
            limits,
            metrics,
            Exposition(metrics, series, clocks.expires_by),
            sources,
            await stack.enter_async_context(KeptSeenTopics(SeenTopics(), store.journal)),
            operations,
            changes,
            Top(ledger, registry),
            RevokedList(authority, registry, wall),
            OcspResponder(authority, registry, wall),
            operators,
            Sessions(operators),
            Guessing(time.monotonic),
            Guessing(time.monotonic, _WRONG_TOKENS),
            audit,
            background,
            clocks,
        )


def _lock(settings: Settings, state: StateFolder) -> StateLock:
    """Raises SettingsError before anything is made."""
    check_effects(settings)
    return StateLock(state)


def _known_streams(settings: Settings) -> KnownStreams:
    ingest = settings.ingest
    return KnownStreams(StreamBounds(ingest.device_streams, ingest.streams, ingest.series))


async def _know(streams: Streams, journal: SqliteStore) -> None:
    """Streams of before count; those of a device that is purged do not."""

    def purged(device: str) -> None:
        if streams.known.forget(device):
            streams.forget()

    streams.known.add(await journal.series())
    journal.purged.append(purged)


def _timekeeping(settings: Settings, state: StateFolder, clock: Clock, background: Background) -> Timekeeping:
    confirm_us = int(settings.clock.confirm_hours * 3.6e9)
    return Timekeeping(state, wall=clock, confirm_us=confirm_us, background=background)


def seals(settings: Settings) -> bool:
    """Whether the journal is sealed into files."""
    return settings.history.seal and available()


async def _telemetry(
    stack: AsyncExitStack,
    settings: Settings,
    state: StateFolder,
    rules: Callable[[], HistoryRules],
    metrics: CollectorRegistry,
    streams: Streams,
    clocks: Timekeeping,
    background: Background,
) -> "tuple[TieredStore, Mover | None]":
    """Where telemetry goes, and what moves it into a database where one is set."""
    mover: Mover | None = None
    store: TieredStore
    if url := settings.store.url.get_secret_value():
        store, mover = await open_store(
            stack, state.telemetry, url, rules, metrics, background, clocks, seals=seals(settings)
        )
    else:
        store = await stack.enter_async_context(TieredStore(state.telemetry, rules, clocks.eras, clocks.wall))
    if store.catalogue.files and not available():
        raise SettingsError("there are files of the history: to read them install fleetgate[analytics]")
    await _know(streams, store.journal)
    return store, mover


async def _presence(
    stack: AsyncExitStack,
    watched: PresenceSettings,
    registry: Registry,
    types: Types,
    ledger: Ledger,
    clocks: Timekeeping,
    background: Background,
) -> tuple[Presence, Supervision]:
    if watched.silent_intervals < watched.late_intervals:
        raise SettingsError("presence.silent_intervals: less than presence.late_intervals")
    flapping = Flapping(watched.flapping_connects, int(watched.flapping_seconds * 1e6))
    presence = await stack.enter_async_context(
        Presence(registry, ledger, flapping, background=background, wall=clocks.wall)
    )
    expected = Expected(watched.late_intervals, watched.silent_intervals)
    supervision = Supervision(registry, types, presence, expected, background=background)
    return presence, await stack.enter_async_context(supervision)


def _decisions(kept: DecisionsSettings, registry: Registry, clocks: Timekeeping, background: Background) -> Decisions:
    bounds = DecisionBounds(kept.per_device, kept.refused, int(kept.keep_hours * 3.6e9))
    most = replace(bounds, total=kept.allowed)
    return Decisions(registry.database, bounds, most, clocks.wall, background, clocks.expires_by)


async def _settled(engine: Engine, sources: Sequence[MqttSource]) -> int:
    """A time up to which everything that was received is committed."""
    now = engine.clock()
    held = [since for source in sources if (since := source.held_since) is not None]
    await engine.settled()
    return min([now - _STAMPED_US, *(since - 1 for since in held)])


async def _note_restored(state: StateFolder, audit: AuditLog) -> None:
    """A state that came out of a backup says so in its log."""
    note = state.path / RESTORED
    if note.exists():
        try:
            facts = dict(json.loads(note.read_text()))
        except (ValueError, TypeError, RecursionError) as error:
            facts = {"problem": f"{RESTORED} can't be read: {error}"[:200]}
        await audit.add(Act("rule:restore", "backup.restore", Via.RULE, facts=facts), Result(Outcome.DONE))
        note.unlink()


def _changes(tail: Tail, registry: Registry, presence: Presence, operations: Operations, engine: Engine) -> Changes:
    changes = Changes(tail, registry, presence.timeline.epoch, engine.clock)
    operations.ended.append(changes.ended)
    presence.tell = partial(_told, engine, changes)
    return changes


def _rebirths(
    settings: Settings,
    streams: StreamDefinitions,
    engine: Engine,
    sources: Sequence[MqttSource],
    background: Background,
) -> Rebirths:
    async def publish(topic: str, payload: bytes) -> int:
        return await engine.broadcast(Message(topic, payload))

    seconds = settings.ingest.rebirth_seconds
    return Rebirths(streams.births, publish, sources, seconds, background=background, monotonic=time.monotonic)


async def _told(engine: Engine, changes: Changes, event: Event) -> None:
    """Whoever watches or subscribes to it hears what happens to a device."""
    changes.happened(event)
    about = {"device": event.device, "event": event.change.value, "time": iso(event.at), "epoch": event.epoch}
    message = Message(presence_topic(event.device), orjson.dumps({**about, **said(event.details)}), qos=1)
    found = list(engine.sessions.router.route(message, PRESENCE_LEVELS))
    engine.publish(message, await engine.agreed(message, found) if engine.hooks.checks_topics else found)


def _follow(registry: Registry, policies: Policies, quotas: Quotas, tls: DeviceTls, engine: Engine) -> None:
    """What changes in the registry, the policies or the TLS files counts for the connections that are there."""

    def changed(member: Member) -> None:
        if registry.find(member.kind, member.name) is None or member.state is State.RETIRED:
            engine.forget(owner_of(member))
        else:
            engine.reconsider(owner_of(member))

    def rights_changed(devices: Iterable[str] | None) -> None:
        engine.renew_rights(None if devices is None else [owner_of_device(name) for name in devices])

    registry.changed.append(changed)

    def quota_changed(device: str | None) -> None:
        engine.meter_anew(None if device is None else owner_of_device(device))

    policies.changed.append(rights_changed)
    quotas.changed.append(quota_changed)
    tls.reloaded.append(engine.reconsider_all)


async def _devices(
    stack: AsyncExitStack,
    registry: Registry,
    decisions: Decisions,
    audit: AuditLog,
    kept: KeptTelemetry,
    background: Background,
) -> Devices:
    def changed(member: Member) -> None:
        """Forget a deleted device: the next one of its name begins empty."""
        if member.kind is Kind.DEVICE and registry.find(member.kind, member.name) is None:
            decisions.forget(member.name)
            kept.forget(member.name)

    registry.changed.append(changed)
    return await stack.enter_async_context(Devices(registry, audit, kept, background=background))


async def _tls(
    stack: AsyncExitStack,
    settings: Settings,
    state: StateFolder,
    authority: Authority,
    database: Database,
    wall: Clock,
    background: Background,
) -> tuple[Authorities, DeviceTls]:
    templates = await stack.enter_async_context(Templates(database, wall))
    authorities = await stack.enter_async_context(Authorities(database, templates, wall))
    return authorities, await stack.enter_async_context(DeviceTls(settings, state, authority, authorities, background))


async def _provisioning(
    stack: AsyncExitStack,
    registry: Registry,
    inventory: Inventory,
    groups: Groups,
    issuer: Issuer,
    authorities: Authorities,
    wall: Clock,
) -> Provisioning:
    database, templates = registry.database, authorities.templates
    claims = await stack.enter_async_context(Claims(database, templates, wall))
    enrolments = Enrolments(database, wall)
    return Provisioning(registry, inventory, groups, issuer, templates, authorities, claims, enrolments, wall)


def history_rules(streams: StreamDefinitions, settings: Settings) -> HistoryRules:
    """What counts for files, as streams are defined now."""
    return rules_of((kept.definition for kept in streams.all()), settings.history)


def make_issuer(settings: Settings, authority: Authority, judge: Judge, sure: Clock | None = None) -> Issuer:
    """Who makes certificates of clients."""
    hook = settings.authority.hook
    if not hook:
        return BuiltInIssuer(authority, sure)
    if not hook.startswith(HOOKS):
        raise SettingsError(f"authority.hook: {hook[:80]!r} is neither a URL nor python:module:function")
    return HookIssuer(hook, authority, judge.identity, settings.authority.device_days, sure)


def make_authority(settings: Settings, state: StateFolder, clock: Clock = now_us) -> Authority:
    """Open or make the certificate authority, and the server's certificate."""
    authority = Authority(
        state.pki,
        settings.identity.trust_domain,
        settings.authority.device_days,
        settings.identity.source,
        _passphrase(settings.authority.passphrase_file),
        clock,
    )
    authority.ensure_server(settings.tls.names)
    return authority


def _passphrase(file: str) -> bytes | None:
    try:
        text = Path(file).read_text(encoding="utf-8").strip() if file else os.environ.get(_PASSPHRASE, "")
    except OSError as error:
        raise SettingsError(f"authority.passphrase_file: {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"authority.passphrase_file: {file}: not UTF-8") from None
    if file and not text:
        raise SettingsError(f"authority.passphrase_file: {file} is empty")
    return text.encode() or None


def engine_limits(settings: Settings) -> EngineLimits:
    """The settings of [mqtt] as the engine takes them."""
    mqtt = settings.mqtt
    return EngineLimits(
        connect_seconds=mqtt.connect_seconds,
        packet_seconds=mqtt.packet_seconds,
        max_keep_alive=mqtt.max_keep_alive,
        connect_bytes=mqtt.max_connect_bytes,
        packet_bytes=mqtt.max_packet_bytes,
        window=mqtt.window,
        queue=QueueLimits(mqtt.queue_messages, mqtt.queue_bytes, int(mqtt.queue_seconds * 1e6)),
        session_seconds=mqtt.session_seconds,
        subscriptions=mqtt.max_subscriptions,
        levels=mqtt.max_levels,
        topic_aliases=mqtt.topic_aliases,
        retained_messages=mqtt.retained_messages,
        retained_bytes=mqtt.retained_bytes,
        device_retained=mqtt.device_retained,
        device_retained_bytes=mqtt.device_retained_bytes,
        close_on_denied=mqtt.close_on_denied,
        device_rate=mqtt.device_rate,
        flapping_connects=mqtt.flapping_connects,
        flapping_seconds=mqtt.flapping_seconds,
    )


def _bounds(settings: Settings) -> Bounds:
    ingest = settings.ingest
    return Bounds(
        ingest.batch_rows, ingest.batch_bytes, ingest.batch_age_ms / 1000, ingest.queue_messages, ingest.queue_bytes
    )
