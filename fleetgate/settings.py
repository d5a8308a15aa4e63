"""Every setting, with its default, its unit and what it does. Read once, at start; config/fleetgate.toml is made from
this file.
"""

import base64
import difflib
import json
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableError

from fleet.identity import Source
from fleetgate.addresses import parse_bind
from fleetgate.errors import ArgumentError, SettingsError
from ingester.codecs import CODECS, UNPACKERS
from ingester.topics import NATIVE_FILTERS, NATIVE_TEMPLATES

PREFIX = "FLEETGATE__"
DEFAULT_FILE = Path("config/fleetgate.toml")


_MOST_DAYS = 100_000
_MOST = {"days": 1, "hours": 24, "minutes": 1440, "seconds": 86_400, "after": 86_400, "ms": 86_400_000}
"""Units in a day, by the last word of a setting's name."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """`keep_days = true` is no day."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation in (int, float):
            raise ValueError("must be a number, not true or false")
        return value

    @field_validator("*")
    @classmethod
    def _within(cls, value: Any, info: ValidationInfo) -> Any:
        """Times are counted in microseconds, and databases have 64 bits."""
        if isinstance(value, int | float):
            unit = _MOST.get((info.field_name or "").rpartition("_")[2])
            most = _MOST_DAYS * unit if unit else 2**53
            if value > most:
                raise ValueError(f"must be {most} at most")
        return value


def _checked_bind(bind: str) -> str:
    try:
        parse_bind(bind)
    except ArgumentError as error:
        raise ValueError(str(error)) from None
    return bind


def _checked_optional_bind(bind: str) -> str:
    return _checked_bind(bind) if bind else bind


class MqttSettings(_Section):
    """MQTT, for devices and applications."""

    bind: str = Field("127.0.0.1:8883", description="host:port to listen on, TLS with client certificate")
    wss_bind: str = Field("", description="host:port for MQTT over WebSocket with TLS, path /mqtt; empty: off")
    wss_origins: list[str] = Field([], description="origins (https://host[:port]) that browsers may come from there")
    plain_bind: str = Field(
        "",
        description="host:port on loopback for MQTT without TLS; the plugins below alone decide who may do what there;"
        " empty: off",
    )
    plugins: dict[str, dict[str, Any]] = Field(
        {},
        description="amqtt plugins by dotted path, each with its configuration; with a certificate they can only narrow"
        ' what it permits. As a section: [mqtt.plugins."my.module.Plugin"]',
    )
    handshake_seconds: float = Field(10, gt=0, description="seconds a TLS handshake may take")
    connect_seconds: float = Field(10, gt=0, description="seconds from the handshake to a CONNECT that is let in")
    packet_seconds: float = Field(60, gt=0, description="seconds from the first byte of a packet to its last")
    max_connections: int = Field(100_000, gt=0, description="connections at a time; more are closed unread")
    max_per_address: int = Field(0, ge=0, description="connections of one address at a time; 0: any number")
    connect_rate: float = Field(500, gt=0, description="new connections a second, on average; more wait")
    connect_burst: int = Field(5000, gt=0, description="new connections that may come at once")
    flapping_connects: int = Field(
        60,
        ge=0,
        description="connects with one certificate's identity in a minute; more are refused for a while; 0: any",
    )
    flapping_seconds: float = Field(60, gt=0, description="how long it is then refused")
    max_packet_bytes: int = Field(
        260 * 1024, ge=1024, le=268_435_455, description="largest packet: 256 KiB of payload, and what is around it"
    )
    max_connect_bytes: int = Field(
        160 * 1024,
        ge=1024,
        le=268_435_455,
        description="largest CONNECT: room for a will with the longest topic and payload",
    )
    max_keep_alive: int = Field(0, ge=0, le=65_535, description="longest keep-alive in seconds; 0: as the client asks")
    device_rate: float = Field(0, ge=0, description="messages a second read from one connection; 0: any number")
    close_on_denied: bool = Field(
        False, description="a publish without a right ends a 3.1.1 connection; false: it is acknowledged and dropped"
    )
    session_seconds: int = Field(30 * 86_400, ge=0, description="how long a session outlives its connection at most")
    window: int = Field(100, gt=0, le=65_535, description="messages on their way to a client, not acknowledged yet")
    queue_messages: int = Field(1000, gt=0, description="messages that may wait for a client; newer ones are dropped")
    queue_bytes: int = Field(1024 * 1024, gt=0, description="bytes that may wait for a client")
    queue_seconds: float = Field(7 * 86_400, gt=0, description="how long a message waits for a client")
    max_subscriptions: int = Field(1000, gt=0, description="subscriptions of one client")
    max_levels: int = Field(128, gt=0, description="levels of a topic or filter")
    topic_aliases: int = Field(32, ge=0, le=65_535, description="topic aliases of a connection, each way (MQTT 5)")
    retained_messages: int = Field(100_000, gt=0, description="retained messages, of all topics")
    retained_bytes: int = Field(64 * 1024 * 1024, gt=0, description="bytes of retained messages")
    device_retained: int = Field(1000, ge=0, description="retained messages of one device; 0: any number")
    device_retained_bytes: int = Field(
        4 * 1024 * 1024, ge=0, description="bytes of retained messages of one device; 0: any number"
    )
    sys_seconds: float = Field(10, ge=0, description="seconds between two rounds of $SYS messages; 0: none")

    _bind = field_validator("bind")(_checked_bind)
    _optional_binds = field_validator("wss_bind", "plain_bind")(_checked_optional_bind)


class HttpSettings(_Section):
    """HTTP, for Prometheus and operators."""

    bind: str = Field("127.0.0.1:8080", description="host:port to listen on")
    https_bind: str = Field(
        "", description="host:port of the devices' API, /device/v1/, over TLS with client certificate; empty: off"
    )
    proxies: list[str] = Field(
        [], description="addresses of reverse proxies: what they say of who asks, X-Forwarded-For and -Proto, counts"
    )
    allow_plain: bool = Field(False, description="listen without TLS on an address that is not loopback")

    _bind = field_validator("bind")(_checked_bind)
    _https_bind = field_validator("https_bind")(_checked_optional_bind)


_NAME = re.compile(r"[A-Za-z0-9._:*-]{1,253}")
"""Characters of host names and addresses; a `*` stands for all names of a domain."""


class TlsSettings(_Section):
    """Certificates of the server, and of devices that are made elsewhere."""

    names: list[str] = Field(
        default_factory=lambda: ["localhost", "127.0.0.1", "::1", socket.gethostname()],
        min_length=1,
        description="names and addresses in the server certificate; reissued when they change"
        " (default: localhost, 127.0.0.1, ::1 and the host name)",
    )
    client_ca: str = Field("", description="file (PEM or DER) with further CAs whose client certificates are accepted")
    crl: str = Field(
        "",
        description="revocation lists of these CAs and of the CAs below them: a file (PEM or DER), or a folder of such"
        " files; when set, a certificate needs a list in effect that covers it, and so do the authorities above it",
    )

    @field_validator("names")
    @classmethod
    def _named(cls, names: list[str]) -> list[str]:
        for name in names:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name[:80]!r} is not a host name or an address; write names beyond ASCII in the form xn--..."
                )
        return names


class IdentitySettings(_Section):
    """How a certificate names its device."""

    source: Source = Field(
        Source.SAN_URI,
        description="where the name stands: san_uri (spiffe://<trust domain>/device/<name>), san_dns, subject_cn,"
        " serial or fingerprint",
    )
    trust_domain: str = Field(
        "fleetgate.local", pattern=r"^[a-z0-9._-]{1,255}$", description="trust domain of the URI in certificates"
    )


class AuthoritySettings(_Section):
    """The built-in certificate authority."""

    device_days: int = Field(825, gt=0, description="days that a new device certificate is valid")
    passphrase_file: str = Field(
        "",
        description="file with the passphrase that the authority's keys are encrypted with;"
        " or the environment, FLEETGATE_CA_PASSPHRASE",
    )
    hook: str = Field(
        "", description="who issues instead: a URL, or python:module:function; empty: the built-in authority"
    )


class OidcSettings(_Section):
    """A provider of OpenID Connect that operators log in by, with a browser; needs the extra `oidc`."""

    issuer: str = Field("", description="https://... of the provider; empty: none")
    client_id: str = Field("", description="what the provider knows fleetgate as")
    client_secret: SecretStr = Field(SecretStr(""), description="and by which secret; empty: it has none")
    public_url: str = Field("", description="address of fleetgate for browsers; empty: as they say")
    scopes: list[str] = Field(["openid", "profile", "email"], description="what is asked for")
    name_claim: str = Field("preferred_username", description="claim with the operator's name")
    role_claim: str = Field("groups", description="claim that says the role: a text or a list")
    admins: list[str] = Field([], description="values of it that make an admin")
    operators: list[str] = Field([], description="values of it that make an operator")
    viewers: list[str] = Field([], description="values of it that make a viewer; who has none of them is refused")


class PresenceSettings(_Section):
    """Who is there, and who should be."""

    late_intervals: float = Field(
        3, ge=1, description="a device is late after so many of the intervals that its type lets expect"
    )
    silent_intervals: float = Field(10, ge=1, description="and silent after so many")
    flapping_connects: int = Field(5, ge=0, description="connects of a device within flapping_seconds; 0: any number")
    flapping_seconds: float = Field(300, gt=0, description="seconds in which they are counted")


class DecisionsSettings(_Section):
    """What was decided about devices lately, for `explain --past` and `policy simulate`."""

    per_device: int = Field(100, ge=1, description="decisions of one kind that are kept of a device")
    refused: int = Field(10_000, ge=1, description="refused connects and messages that are kept in all")
    allowed: int = Field(50_000, ge=1, description="allowed ones that are kept in all, for `policy simulate`")
    keep_hours: float = Field(24, gt=0, description="hours they are kept, counted from the last time")


class IngestSettings(_Section):
    """From a message to its commit."""

    batch_rows: int = Field(5000, gt=0, description="commit when so many messages have gathered")
    batch_bytes: int = Field(4 * 1024 * 1024, gt=0, description="or so many bytes of payload")
    batch_age_ms: float = Field(20, ge=0, description="or so many milliseconds after the first of them")
    queue_messages: int = Field(50_000, gt=0, description="messages that may wait for a commit; then intake stops")
    queue_bytes: int = Field(64 * 1024 * 1024, gt=0, description="bytes of payload that may wait for a commit")
    max_payload_bytes: int = Field(256 * 1024, gt=0, description="larger payloads go to quarantine")
    max_depth: int = Field(16, gt=0, le=512, description="deeper nested payloads go to quarantine")
    rebirth_seconds: float = Field(
        30, ge=0, description="least seconds between two requests for the births of a Sparkplug node; 0: no requests"
    )
    device_streams: int = Field(
        1000,
        ge=0,
        description="streams of one device; messages of further streams go to quarantine with the reason streams; a"
        " name takes one place for each 1024 characters begun; 0: any number",
    )
    streams: int = Field(
        10_000,
        ge=0,
        description="different stream names of all devices; beyond it only a device with fewer than 16 streams gets a"
        " new one; 0: any number",
    )
    series: int = Field(
        2_000_000,
        ge=0,
        description="pairs of device and stream, of 150 bytes of memory each; beyond it only a device with fewer than"
        " 16 streams gets a new one; 0: any number",
    )


class StoreSettings(_Section):
    """Telemetry on disk."""

    url: SecretStr = Field(
        SecretStr(""),
        description="postgresql://user@host/database that telemetry goes to from the journal; empty: it stays in this"
        " folder. Needs the extra `postgres`. Passwords are better kept in ~/.pgpass",
    )
    keep_days: float = Field(90, ge=0, description="days telemetry is kept, from the time of receipt; 0 keeps all")
    quarantine_bytes: int = Field(
        64 * 1024 * 1024,
        ge=0,
        description="bytes of payload in quarantine; beyond it, the oldest messages of the devices with the most bytes"
        " are deleted; 0: any number",
    )


class RegistrySettings(_Section):
    """Devices, certificates, policies and what else is known of the fleet."""

    url: SecretStr = Field(
        SecretStr(""),
        description="postgresql://user@host/database that has them, in its schema fleet, and takes fleet.db over at the"
        " first start; empty: fleet.db in this folder. Needs the extra `postgres`",
    )


class HistorySettings(_Section):
    """Telemetry that is sealed into Parquet files, below telemetry/history; needs the extra `analytics`."""

    seal: bool = Field(True, description="seal the journal; false: everything stays in it")
    seal_minutes: float = Field(10, gt=0, description="minutes after which a message is sealed")
    seal_bytes: int = Field(16 * 1024 * 1024, gt=0, description="bytes of journal after which all is sealed")
    keep_payload: bool = Field(False, description="keep payloads as they came, beside their fields")
    minutes_days: float = Field(365, ge=0, description="days that sums by the minute are kept; 0: for ever")
    hours_days: float = Field(3650, ge=0, description="days that sums by the hour are kept; those by the day stay")
    free_bytes: int = Field(
        0, ge=0, description="with less room on the disk the oldest files are deleted; 0: only by age and size"
    )


class MetricsSettings(_Section):
    """/metrics."""

    max_devices: int = Field(10_000, ge=0, description='devices with series of their own; the rest is device="_other"')
    stale_after: float = Field(3600, gt=0, description="seconds of silence after which a device's series go away")


class ClockSettings(_Section):
    """The wall clock, which may be wrong at times."""

    confirm_hours: float = Field(
        72,
        ge=0,
        description="after the clock is set ahead: hours that it runs evenly before telemetry expires by its new time",
    )


class LogSettings(_Section):
    """The ingest log, logs/ingest.log in the state folder."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")
    max_bytes: int = Field(64 * 1024 * 1024, gt=0, description="bytes after which the log is rotated")
    keep_files: int = Field(5, ge=1, description="rotated logs that are kept")


class SourceSettings(_Section):
    """Another broker that telemetry is read from. Repeat the section for more than one."""

    url: str = Field(description="mqtt://[user@]host[:port] or mqtts://...")
    topics: list[str] = Field(
        default_factory=lambda: list(NATIVE_FILTERS),
        min_length=1,
        description="filters to subscribe to; $share/group/... for a shared subscription",
    )
    map: list[str] = Field(
        default_factory=lambda: list(NATIVE_TEMPLATES),
        min_length=1,
        description="how topics name device and stream; the first that matches decides",
    )
    client_id: str = Field("fleetgate", min_length=1, description="MQTT client id; its session is kept by the broker")
    version: Literal["5", "3.1.1"] = Field("5", description="MQTT version: 5 or 3.1.1")
    ca: str = Field("", description="PEM file with the CA of the broker; empty: the system's")
    certificate: str = Field("", description="PEM file with our client certificate")
    key: str = Field("", description="PEM file with its key")
    password: SecretStr = Field(SecretStr(""), description="password of the user named in the url")
    retained: Literal["once", "ignore", "store"] = Field(
        "once",
        description="retained messages of the broker: once (stored again only when they change), ignore, or store (at"
        " each connection)",
    )


class StreamSettings(_Section):
    """A stream that is not plain JSON below devices/NAME/telemetry. Repeat the section, as [streams.NAME]."""

    filter: str = Field(
        description="topics: {device} and other {names} capture a level, {name...} the rest; + and # as in MQTT"
    )
    codec: str | list[str] = Field(
        "json", description=f"{', '.join(CODECS)}; a list with {' or '.join(UNPACKERS)} before it where it is wrapped"
    )
    stream: str = Field("", description="name of the stream, with captured parts; empty: that of the section")
    types: list[str] = Field([], description="only of devices of these types; empty: of all")
    layout: str = Field("", description="codec binary: such as u16 temperature /10; i8 rssi")
    descriptor_file: str = Field("", description="codec protobuf: file with the descriptor set")
    message: str = Field("", description="codec protobuf: full name of the message")
    callable: str = Field("", description="codec python: entry point of the group fleetgate.codecs")
    budget_ms: float = Field(20, description="codec python: milliseconds for a message")
    value_type: str = Field("auto", description="codec text: type of the value: auto, text, number or boolean")
    time: str | dict[str, str] = Field(
        "ts", description="field with the time, {field, unit}, or received; units: auto, s, ms, us, ns, iso"
    )
    schema_file: str = Field("", description="file with a JSON Schema of the payload")
    on_invalid: str = Field("quarantine", description="what it does not allow: quarantine, reject or mark")
    fields: dict[str, dict[str, str]] = Field({}, description="unit and description of fields")
    keep_days: float = Field(0, description="days after which it is deleted; 0: as store.keep_days says")
    keep_bytes: int = Field(0, description="bytes of history; the oldest goes first; 0: any number")
    keep_payload: bool = Field(False, description="keep payloads as they came in the history, beside their fields")
    duplicates: str = Field("keep", description="readings of one device, stream and time: keep, merge or drop")


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    mqtt: MqttSettings = MqttSettings()
    http: HttpSettings = HttpSettings()
    tls: TlsSettings = TlsSettings()
    identity: IdentitySettings = IdentitySettings()
    authority: AuthoritySettings = AuthoritySettings()
    oidc: OidcSettings = OidcSettings()
    presence: PresenceSettings = PresenceSettings()
    decisions: DecisionsSettings = DecisionsSettings()
    ingest: IngestSettings = IngestSettings()
    store: StoreSettings = StoreSettings()
    registry: RegistrySettings = RegistrySettings()
    history: HistorySettings = HistorySettings()
    metrics: MetricsSettings = MetricsSettings()
    clock: ClockSettings = ClockSettings()
    log: LogSettings = LogSettings()
    source: list[SourceSettings] = []
    streams: dict[str, StreamSettings] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic calls it by these names
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file; the file comes in as keyword arguments."""
        return env_settings, init_settings


_REPEATED: Mapping[Any, tuple[type[BaseModel], str]] = {
    list[SourceSettings]: (SourceSettings, "[[source]]"),
    dict[str, StreamSettings]: (StreamSettings, "[streams.NAME]"),
}


def configured_streams(settings: Settings) -> dict[str, dict[str, Any]]:
    """Streams of the settings as `ingester.streams` reads them; files are read. Raises SettingsError."""
    found = {}
    for name, one in settings.streams.items():
        given = one.model_dump(exclude_unset=True)
        for key, file in (("descriptor", given.pop("descriptor_file", "")), ("schema", given.pop("schema_file", ""))):
            if file:
                given[key] = _contents(f"streams.{name}.{key}_file", Path(file), key)
        found[name] = given
    return found


def _contents(where: str, file: Path, key: str) -> Any:
    try:
        data = file.read_bytes()
        return base64.b64encode(data).decode() if key == "descriptor" else json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{where}: {file}: {error}") from error


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read `path`, or DEFAULT_FILE where it exists, and the environment. Raises SettingsError with one clear line."""
    file = path if path is not None else DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise SettingsError(f"{file}: {error}") from error
    for name in environment:
        if name.startswith(PREFIX):
            section = name[len(PREFIX) :].split("__")[0].lower()
            if section not in Settings.model_fields:
                raise SettingsError(
                    f"environment {name}: no section {section!r}{_near(section, Settings.model_fields)}"
                )
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(_explain(error, str(file) if file else "settings")) from None
    except UnreadableError:
        names = [name for name, value in environment.items() if name.startswith(PREFIX) and not _is_json(value)]
        raise SettingsError(f'environment {" or ".join(names)}: a list is written as JSON, ["a", "b"]') from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key {key!r}{_near(str(problem['loc'][-1]), _siblings(problem['loc']))}")
        else:
            lines.append(f"{where}: {key}: {problem['msg']}")
    return "; ".join(lines)


def _siblings(location: tuple[int | str, ...]) -> Mapping[str, FieldInfo]:
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_of(model.model_fields[part])
    return model.model_fields


def _near(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _model_of(field: FieldInfo) -> type[BaseModel]:
    annotation = field.annotation
    if annotation in _REPEATED:
        return _REPEATED[annotation][0]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    raise TypeError(f"{annotation} is not a section")


def to_toml() -> str:
    """The text of config/fleetgate.toml: every key with its default."""
    return "\n".join(_toml_lines()) + "\n"


def _toml_lines() -> Iterator[str]:
    yield "# Settings of fleetgate: every key with its default. Made by `make config`; a test keeps it up to date."
    yield f"# The environment wins: {PREFIX}STORE__KEEP_DAYS=30 sets keep_days of [store]."
    for section, field in Settings.model_fields.items():
        model = _model_of(field)
        repeated = field.annotation in _REPEATED
        yield ""
        yield f"# {(model.__doc__ or '').strip()}"
        yield f"# {_REPEATED[field.annotation][1]}" if repeated else f"[{section}]"
        for key, info in model.model_fields.items():
            default = info.get_default(call_default_factory=True, validated_data={})
            commented = repeated or (section, key) == ("tls", "names")  # a default of this machine is not written down
            yield f"# {info.description}"
            yield f"{'# ' if commented else ''}{key} = {_toml_value(default) if not info.is_required() else '...'}"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        if value and value[0] == "localhost":
            value = [*value[:3], "<host name>"]
        return f"[{', '.join(map(_toml_value, value))}]"
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
