"""Made by fleetgate.client.generator of the API's document; not to be edited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NotRequired, TypedDict

from fleetgate.client.transport import Transport, segment

ActionKind = Literal["disable", "enable", "retire", "revoke", "set"]


class ActionView(TypedDict):
    """What can be done: by which route, with which role at least, and in which part of the fleet."""

    action: str
    method: str
    path: str
    role: Role
    reach: str
    audited: bool


class Added(TypedDict):
    """What was registered, and what belongs on it."""

    device: OneDevice | MemberView
    certificate: str
    ca: str


class AddedCertificate(TypedDict):
    """The certificate as PEM, and what belongs beside it."""

    entry: CertificateView
    certificate: str
    ca: str


class AddedClaim(TypedDict):
    """A claim, its certificate with those above it, and what clients trust the server by; PEM."""

    claim: ClaimView
    certificate: str
    ca: str


class Answer(TypedDict):
    """A decision: `reason` is allowed, explicit_deny, not_allowed, or why a connect is refused."""

    decision: str
    reason: str
    policy: str | None
    version: int | None
    statement: str | None


class Applications(TypedDict):
    """Some of a list; `next` is the value of `after` for the rest, null at the end."""

    items: list[MemberView]
    next: str | None


class AttachmentBody(TypedDict):
    """What a policy is attached to; of kind `all`, target is empty."""

    kind: TargetKind
    target: NotRequired[str]


class AuditPage(TypedDict):
    """Entries, the newest first; `next` is the value of `before` for older ones, null at the end."""

    items: list[dict[str, Any]]
    next: int | None


class AuthorityView(TypedDict):
    """An authority; times are ISO 8601 UTC."""

    name: str
    subject: str
    fingerprint: str
    not_after: str
    mode: Mode
    template: str
    identity: Source | None
    version: int
    created: str
    updated: str


class CertificateView(TypedDict):
    """A certificate: pending, active, inactive, revoked or deleted, or expired by now; times are ISO 8601 UTC."""

    fingerprint: str
    serial: str
    not_before: str
    not_after: str
    status: str


class CheckpointBody(TypedDict):
    """The end of the log, signed by the certificate authority; `at` is in microseconds."""

    seq: int
    hash: str
    at: int
    signature: str
    signer: str


class ClaimView(TypedDict):
    """A claim, and how often it was used; times are ISO 8601 UTC."""

    name: str
    state: str
    template: str
    uses: int
    max_uses: int | None
    per_hour: int | None
    expires: str | None
    created: str


class ConnectionPage(TypedDict):
    """Some of a list; `next` is the value of `after` for the rest, null at the end."""

    items: list[ConnectionView]
    next: str | None


class ConnectionView(TypedDict):
    """A connection; `connected` is ISO 8601 UTC, `keep_alive` seconds."""

    client_id: str
    name: str
    listener: str
    address: str
    version: str
    tls: str
    connected: str | None
    keep_alive: int
    messages_in: int
    messages_out: int
    subscriptions: list[str]
    inflight: int
    queued: int


class Count(TypedDict):
    """How many; `value` is that of the field that is counted by, null where all are counted together."""

    value: str | None
    count: int


class DamageView(TypedDict):
    """Rows of a file that no longer read."""

    path: str
    first_row: int
    last_row: int
    detail: str


class DatasetView(TypedDict):
    """A dataset. What was received up to `watermark` is in its results; null: not yet."""

    name: str
    version: int
    definition: Definition
    watermark: str | None
    ran: str | None
    next_run: str | None
    problem: str | None


class DayView(TypedDict):
    """What a device sent on a day (UTC)."""

    day: str
    messages: int
    bytes: int


class Definition(TypedDict):
    """A question and what becomes of its result. `sql` may say $since and $until: the times of receipt after which, and up to which, telemetry is new. `every` is a duration, counted from midnight of 1970-01-01 UTC. `keep` is how many results are kept; `folder` and `webhook` say where each is brought."""

    sql: str
    every: NotRequired[str]
    format: NotRequired[Form]
    keep: NotRequired[int]
    folder: NotRequired[str]
    webhook: NotRequired[str]
    seconds: NotRequired[float]
    memory_bytes: NotRequired[int]
    rows: NotRequired[int]


class DeviceChange(TypedDict):
    """What is to be different about a device [RFC 7396]: an attribute that is null goes; tags are all it is to have."""

    display_name: NotRequired[str | None]
    type: NotRequired[str | None]
    site: NotRequired[str | None]
    notes: NotRequired[str | None]
    attributes: NotRequired[dict[str, str | bool | int | float | None] | None]
    tags: NotRequired[list[str] | None]


class DeviceView(TypedDict):
    """A device, and what is known about it."""

    name: str
    kind: str
    state: str
    version: int
    connected: bool
    last_seen: str | None
    last_data: str | None
    created: str
    updated: str
    publish: list[str]
    subscribe: list[str]
    certificates: list[CertificateView]
    display_name: str
    type: str
    site: str
    notes: str
    attributes: dict[str, str | bool | int | float]
    tags: list[str]


class Devices(TypedDict):
    """Some of a list; `next` is the value of `after` for the rest, null at the end."""

    items: list[DeviceView]
    next: str | None


class Different(TypedDict):
    """A decision that would be another."""

    device: str
    action: str
    resource: str
    times: int
    last: str
    was: Answer
    would_be: Answer


class Done(TypedDict):
    """It was done."""

    done: NotRequired[bool]


class DriftView(TypedDict):
    """A field that is new (`was` null), or has another type."""

    time: str
    field: str
    was: str | None
    now: str
    device: str


class EntryBody(TypedDict):
    """A device that may come, and what it is allocated to."""

    value: str
    site: NotRequired[str]
    type: NotRequired[str]
    groups: NotRequired[list[str]]
    attributes: NotRequired[dict[str, str | bool | int | float]]


class EntryView(TypedDict):
    """A device of a list; `device` is who has come, empty: nobody."""

    value: str
    site: NotRequired[str]
    type: NotRequired[str]
    groups: NotRequired[list[str]]
    attributes: NotRequired[dict[str, str | bool | int | float]]
    device: str
    used: str | None


class EventView(TypedDict):
    """An event, the `number`-th of this device; `epoch` is the run of the program that it is of."""

    number: int
    event: str
    time: str
    epoch: int
    details: dict[str, Any]


class Explanation(TypedDict):
    """Whether an operator may do something, and why not."""

    operator: str
    action: str
    device: str | None
    decision: str
    detail: str


class FaultView(TypedDict):
    """The first bad entry, and what is wrong: altered, removed, reordered, clock_rolled_back, or end."""

    seq: int
    wrong: str
    detail: str


class FileView(TypedDict):
    """A file of the history, as the catalogue has it. `stream` null: it has readings of many streams."""

    path: str
    stream: str | None
    rows: int
    messages: int
    first: str
    last: str
    bytes: int
    sha256: str
    fields: dict[str, str]


Form = Literal["json", "csv", "parquet", "arrow"]


class GroupView(TypedDict):
    """A group; times are ISO 8601 UTC."""

    parent: NotRequired[str | None]
    query: NotRequired[str | None]
    description: NotRequired[str]
    name: str
    version: int
    created: str
    updated: str


Kind = Literal["device", "presence", "refusal", "operation"]


class LifeDeleted(TypedDict):
    """What was deleted; `purged` counts rows of telemetry."""

    name: str
    purged: int


ListKind = Literal["serial", "key"]


class ListView(TypedDict):
    """An enrolment list: how many devices are on it, and how many of them have come."""

    name: str
    kind: ListKind
    entries: int
    come: int


class LoggedIn(TypedDict):
    """Who has logged in. `csrf` belongs into X-CSRF-Token of all that changes something."""

    name: str
    credential: str
    role: Role
    scopes: list[ScopeBody]
    csrf: str


class LoggedOut(TypedDict):
    """Nobody is logged in any more."""

    done: NotRequired[bool]


class MadeToken(TypedDict):
    """A token, and its text: told this once."""

    groups: NotRequired[list[str]]
    sites: NotRequired[list[str]]
    id: str
    operator: str
    role: Role
    description: str
    created: str
    expires: str | None
    last_used: str | None
    token: str


class Me(TypedDict):
    """Who calls. `scopes`: only what is in all of them."""

    name: str
    credential: str
    role: Role
    scopes: list[ScopeBody]


class MemberView(TypedDict):
    """A device or an application; times are ISO 8601 UTC."""

    name: str
    kind: str
    state: str
    version: int
    connected: bool
    last_seen: str | None
    last_data: str | None
    created: str
    updated: str
    publish: list[str]
    subscribe: list[str]
    certificates: list[CertificateView]


Mode = Literal["none", "pending", "active"]


class NamesDeleted(TypedDict):
    """What was deleted."""

    name: str


class NewView(TypedDict):
    """A device that was registered; `created` is ISO 8601 UTC."""

    device: str
    created: str
    state: str
    connected: bool


class NoteView(TypedDict):
    """What came of one request; `how` is claim, just_in_time or renewal, `by` the claim, authority or device."""

    at: str
    how: str
    by: str
    device: str
    outcome: str
    code: str
    detail: str
    address: str


class ObservedFieldView(TypedDict):
    """One field, with how often it was seen with each type, and what is said of it."""

    name: str
    types: dict[str, int]
    first: str
    last: str
    unit: str
    description: str


class ObservedView(TypedDict):
    """What was seen of a stream since the server started, in those of its messages that were looked at."""

    stream: str
    messages: int
    fields: list[ObservedFieldView]
    drifts: list[DriftView]


class OneDevice(TypedDict):
    """A device, and the groups it is in by itself."""

    name: str
    kind: str
    state: str
    version: int
    connected: bool
    last_seen: str | None
    last_data: str | None
    created: str
    updated: str
    publish: list[str]
    subscribe: list[str]
    certificates: list[CertificateView]
    display_name: str
    type: str
    site: str
    notes: str
    attributes: dict[str, str | bool | int | float]
    tags: list[str]
    groups: list[str]


class OneGroup(TypedDict):
    """A group, and how many devices it and those below it have now."""

    parent: NotRequired[str | None]
    query: NotRequired[str | None]
    description: NotRequired[str]
    name: str
    version: int
    created: str
    updated: str
    devices: int


class OnePolicy(TypedDict):
    """A policy, and the document of the version that counts."""

    name: str
    description: str
    default_version: int
    versions: list[int]
    attached: list[AttachmentBody]
    version: int
    created: str
    updated: str
    document: dict[str, Any]


class OperationView(TypedDict):
    """Long work: `running`, `done` (with its result) or `failed` (with the problem); times are ISO 8601 UTC."""

    id: str
    kind: str
    created: str
    state: str
    done: int
    total: int
    result: dict[str, Any] | None
    problem: str | None


class OperatorView(TypedDict):
    """An operator; times are ISO 8601 UTC. `external`: OpenID Connect says who it is and which role it has."""

    groups: NotRequired[list[str]]
    sites: NotRequired[list[str]]
    role: Role
    description: NotRequired[str]
    disabled: NotRequired[bool]
    name: str
    password: bool
    external: bool
    tokens: int
    version: int
    created: str
    updated: str


Outcome = Literal["done", "refused", "failed", "interrupted"]


Over = Literal["slow", "reject", "suspend"]


class OwnedCertificate(TypedDict):
    """A certificate and whose it is."""

    fingerprint: str
    serial: str
    not_before: str
    not_after: str
    status: str
    kind: str
    name: str


class PastAnswer(TypedDict):
    """A decision that was made: for what, how often, when first and last."""

    decision: str
    reason: str
    policy: str | None
    version: int | None
    statement: str | None
    device: str
    action: str
    resource: str
    detail: str
    first: str
    last: str
    times: int
    address: str
    client_id: str


class PendingView(TypedDict):
    """A certificate that waits for somebody to activate it."""

    device: str
    fingerprint: str
    created: str
    not_after: str


class PolicyView(TypedDict):
    """A policy; times are ISO 8601 UTC."""

    name: str
    description: str
    default_version: int
    versions: list[int]
    attached: list[AttachmentBody]
    version: int
    created: str
    updated: str


class PresenceView(TypedDict):
    """Whether a device is there; times are ISO 8601 UTC, null: never. `connection` has what is known of it. `condition` is on_time, late or silent, null where nothing is expected of its type."""

    device: str
    connected: bool
    since: str | None
    last_seen: str | None
    last_data: str | None
    condition: str | None
    messages_per_minute: float | None
    flapping: bool
    connection: dict[str, Any] | None


class Published(TypedDict):
    """How many sessions the message was for."""

    subscribers: int


class QuotaView(TypedDict):
    """A quota: of a device, or of the devices of a type; both null: that of all who have none of their own."""

    messages_per_minute: NotRequired[int | None]
    bytes_per_minute: NotRequired[int | None]
    messages_per_day: NotRequired[int | None]
    bytes_per_day: NotRequired[int | None]
    over: NotRequired[Over]
    device: str | None
    type: str | None


class QuotasDeleted(TypedDict):
    """What was deleted."""

    device: str | None
    type: str | None


class ReadingView(TypedDict):
    """A reading as it would be kept."""

    time: str | None
    fields: dict[str, Any]
    marks: list[str]


class ReplayResult(TypedDict):
    """How many are stored now, and how many stay."""

    stored: int
    kept: int


class ResultView(TypedDict):
    """One result."""

    number: int
    at: str
    since: str
    until: str
    rows: int
    bytes: int
    sha256: str
    format: Form
    delivered: str | None
    problem: str | None


Role = Literal["viewer", "operator", "admin"]


class RuleView(TypedDict):
    """A rule; times are ISO 8601 UTC, null: it did not run yet. `tried` is the version that ran dry last."""

    name: str
    version: int
    document: dict[str, Any]
    tried: int
    enabled: bool
    ran: str | None
    problem: str
    created: str
    updated: str


class RunView(TypedDict):
    """What a run did, or would do, to which devices, in order; `problem` is empty where nothing is wrong."""

    then: str
    count: int
    devices: list[str]
    problem: str


class ScopeBody(TypedDict):
    """Part of the fleet: devices of these groups and at these sites. With neither: the whole fleet."""

    groups: NotRequired[list[str]]
    sites: NotRequired[list[str]]


class SealResult(TypedDict):
    """Messages that were sealed, and files that went into larger ones."""

    sealed: int
    merged: int


class SentView(TypedDict):
    """What a device sent: a second, lately, and since the start; and what of it was refused."""

    device: str
    messages_per_second: float
    bytes_per_second: float
    rejected_per_second: float
    messages: int
    rejected: int


class Simulated(TypedDict):
    """What would change, and how many decisions were looked at."""

    decisions: int
    changes: list[Different]


Source = Literal["san_uri", "san_dns", "subject_cn", "serial", "fingerprint"]


class StepView(TypedDict):
    """One rule, and what it said: passed, failed or skipped."""

    rule: str
    outcome: str
    detail: str


class StoreView(TypedDict):
    """Bytes by tier, and how many files, readings and messages are in the history."""

    bytes: dict[str, int]
    files: int
    rows: int
    messages: int
    bytes_per_message: float | None


class StreamView(TypedDict):
    """A stream. `version` 0: it is one of the settings, and changed there."""

    name: str
    version: int
    definition: dict[str, Any]
    units: dict[str, str]


class SummaryView(TypedDict):
    """Quarantined messages of one reason; `expired` were too old or too many, and deleted."""

    reason: str
    messages: int
    bytes: int
    oldest: str | None
    expired: int


TargetKind = Literal["all", "device", "type", "group", "certificate"]


class TemplateView(TypedDict):
    """A template."""

    name: str
    version: int
    document: dict[str, Any]


class TokenView(TypedDict):
    """A token; times are ISO 8601 UTC, null: it never ends, it was not used yet."""

    groups: NotRequired[list[str]]
    sites: NotRequired[list[str]]
    id: str
    operator: str
    role: Role
    description: str
    created: str
    expires: str | None
    last_used: str | None


class TopView(TypedDict):
    """The first of each kind; rates are over the last `seconds`."""

    seconds: float
    devices: int
    connected: int
    messages_per_second: float
    busiest: list[SentView]
    refused: list[SentView]
    newest: list[NewView]


class TrialView(TypedDict):
    """What one definition, or one codec alone, makes of the payload. `chosen` is the one that counts."""

    stream: str | None
    definition: str | None
    codec: str
    chosen: bool
    reason: str | None
    detail: str | None
    readings: list[ReadingView]


class TypeView(TypedDict):
    """A device type; times are ISO 8601 UTC."""

    description: NotRequired[str]
    required: NotRequired[dict[str, ValueKind]]
    telemetry: NotRequired[dict[str, Any] | None]
    messages_per_minute: NotRequired[float | None]
    name: str
    version: int
    created: str
    updated: str


class UsageView(TypedDict):
    """What a device sent, the latest day first, and the quota that counts for it."""

    device: str
    quota: QuotaView | None
    days: list[DayView]


ValueKind = Literal["string", "number", "boolean"]


class VerdictView(TypedDict):
    """Whether it would be let in; `reason` is that of the refused connect, null when there is none."""

    decision: str
    reason: str | None
    steps: list[StepView]


class Verification(TypedDict):
    """Whether the log is as it was written, and how many entries are."""

    ok: bool
    entries: int
    fault: FaultView | None


class VersionView(TypedDict):
    """One version of a policy."""

    policy: str
    number: int
    default: bool
    created: str
    document: dict[str, Any]


class Operations(Transport):
    """The endpoints of the API, each named as its action."""

    def device_list(self, *, after: str | None = None, limit: int | None = None, query: str | None = None) -> Devices:
        """List devices, all or those that a query finds.

        Needs the role `viewer`. Operators with a part of the fleet see and change what is in it.
        """
        return self._call("GET", "/devices", params={"after": after, "limit": limit, "query": query})

    def device_add(
        self,
        *,
        name: str,
        idempotency_key: str | None = None,
        csr: str | None = None,
        certificate: str | None = None,
        display_name: str | None = None,
        type: str | None = None,
        site: str | None = None,
        notes: str | None = None,
        attributes: dict[str, str | bool | int | float] | None = None,
        tags: list[str] | None = None,
    ) -> Added:
        """Register a device.

        Needs the role `operator`. Operators with a part of the fleet see and change what is in it.
        """
        return self._call(
            "POST",
            "/devices",
            headers={"Idempotency-Key": idempotency_key},
            json={
                "name": name,
                "csr": csr,
                "certificate": certificate,
                "display_name": display_name,
                "type": type,
                "site": site,
                "notes": notes,
                "attributes": attributes,
                "tags": tags,
            },
        )

    def device_count(self, *, query: str | None = None, by: str | None = None) -> list[Count]:
        """Count devices, all together or by a field.

        Needs the role `viewer`. Operators with a part of the fleet see and change what is in it.
        """
        return self._call("GET", "/device-counts", params={"query": query, "by": by})

    def device_show(self, name: str) -> OneDevice:
        """Show a device.

        Needs the role `viewer`. Operators with a part of the fleet: for devices in it.
        """
        return self._call("GET", f"/devices/{segment(name)}")

    def device_set(
        self,
        name: str,
        *,
        if_match: str | None = None,
        display_name: str | None = None,
        type: str | None = None,
        site: str | None = None,
        notes: str | None = None,
        attributes: dict[str, str | bool | int | float | None] | None = None,
        tags: list[str] | None = None,
    ) -> OneDevice:
        """Change what is known about a device.

        Needs the role `operator`. Operators with a part of the fleet: for devices in it.
        """
        return self._call(
            "PATCH",
            f"/devices/{segment(name)}",
            headers={"If-Match": if_match},
            json={
                "display_name": display_name,
                "type": type,
                "site": site,
                "notes": notes,
                "attributes": attributes,
                "tags": tags,
            },
        )

    def device_delete(self, name: str, *, purge: bool | None = None, if_match: str | None = None) -> LifeDeleted:
        """Take it out of the fleet.

        Needs the role `admin`. Operators with a part of the fleet: for devices in it.
        """
        return self._call(
            "DELETE", f"/devices/{segment(name)}", params={"purge": purge}, headers={"If-Match": if_match}
        )

    def application_list(self, *, after: str | None = None, limit: int | None = None) -> Applications:
        """List applications.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/applications", params={"after": after, "limit": limit})

    def application_add(
        self,
        *,
        name: str,
        idempotency_key: str | None = None,
        csr: str | None = None,
        certificate: str | None = None,
        publish: list[str] | None = None,
        subscribe: list[str] | None = None,
    ) -> Added:
        """Register an application.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            "/applications",
            headers={"Idempotency-Key": idempotency_key},
            json={"name": name, "csr": csr, "certificate": certificate, "publish": publish, "subscribe": subscribe},
        )

    def application_show(self, name: str) -> MemberView:
        """Show an application.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", f"/applications/{segment(name)}")

    def application_delete(self, name: str, *, purge: bool | None = None, if_match: str | None = None) -> LifeDeleted:
        """Take it out of the fleet.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "DELETE", f"/applications/{segment(name)}", params={"purge": purge}, headers={"If-Match": if_match}
        )

    def device_disable(
        self, name: str, *, if_match: str | None = None, idempotency_key: str | None = None
    ) -> OneDevice:
        """Refuse its connections.

        Needs the role `operator`. Operators with a part of the fleet: for devices in it.
        """
        return self._call(
            "POST",
            f"/devices/{segment(name)}/disable",
            headers={"If-Match": if_match, "Idempotency-Key": idempotency_key},
        )

    def device_enable(self, name: str, *, if_match: str | None = None, idempotency_key: str | None = None) -> OneDevice:
        """Let it in again.

        Needs the role `operator`. Operators with a part of the fleet: for devices in it.
        """
        return self._call(
            "POST",
            f"/devices/{segment(name)}/enable",
            headers={"If-Match": if_match, "Idempotency-Key": idempotency_key},
        )

    def device_revoke(self, name: str, *, forget: bool | None = None, idempotency_key: str | None = None) -> OneDevice:
        """Revoke its certificates for good.

        Needs the role `operator`. Operators with a part of the fleet: for devices in it.
        """
        return self._call(
            "POST",
            f"/devices/{segment(name)}/revoke",
            params={"forget": forget},
            headers={"Idempotency-Key": idempotency_key},
        )

    def application_disable(
        self, name: str, *, if_match: str | None = None, idempotency_key: str | None = None
    ) -> MemberView:
        """Refuse its connections.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            f"/applications/{segment(name)}/disable",
            headers={"If-Match": if_match, "Idempotency-Key": idempotency_key},
        )

    def application_enable(
        self, name: str, *, if_match: str | None = None, idempotency_key: str | None = None
    ) -> MemberView:
        """Let it in again.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            f"/applications/{segment(name)}/enable",
            headers={"If-Match": if_match, "Idempotency-Key": idempotency_key},
        )

    def application_revoke(
        self, name: str, *, forget: bool | None = None, idempotency_key: str | None = None
    ) -> MemberView:
        """Revoke its certificates for good.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            f"/applications/{segment(name)}/revoke",
            params={"forget": forget},
            headers={"Idempotency-Key": idempotency_key},
        )

    def device_retire(
        self, name: str, *, purge: bool | None = None, if_match: str | None = None, idempotency_key: str | None = None
    ) -> OneDevice:
        """Refuse its connections for good, revoke its certificates and delete its session.

        Needs the role `operator`. Operators with a part of the fleet: for devices in it.
        """
        return self._call(
            "POST",
            f"/devices/{segment(name)}/retire",
            params={"purge": purge},
            headers={"If-Match": if_match, "Idempotency-Key": idempotency_key},
        )

    def application_retire(
        self, name: str, *, purge: bool | None = None, if_match: str | None = None, idempotency_key: str | None = None
    ) -> MemberView:
        """Refuse its connections for good, revoke its certificates and delete its session.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            f"/applications/{segment(name)}/retire",
            params={"purge": purge},
            headers={"If-Match": if_match, "Idempotency-Key": idempotency_key},
        )

    def certificate_add(
        self,
        name: str,
        *,
        idempotency_key: str | None = None,
        csr: str | None = None,
        certificate: str | None = None,
        active: bool | None = None,
    ) -> AddedCertificate:
        """Register one more certificate.

        Needs the role `operator`. Operators with a part of the fleet: for devices in it.
        """
        return self._call(
            "POST",
            f"/devices/{segment(name)}/certificates",
            headers={"Idempotency-Key": idempotency_key},
            json={"csr": csr, "certificate": certificate, "active": active},
        )

    def application_add_certificate(
        self,
        name: str,
        *,
        idempotency_key: str | None = None,
        csr: str | None = None,
        certificate: str | None = None,
        active: bool | None = None,
    ) -> AddedCertificate:
        """Register one more certificate.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            f"/applications/{segment(name)}/certificates",
            headers={"Idempotency-Key": idempotency_key},
            json={"csr": csr, "certificate": certificate, "active": active},
        )

    def certificate_show(self, fingerprint: str) -> OwnedCertificate:
        """Show a certificate, and whose it is.

        Needs the role `viewer`. Operators with a part of the fleet: for certificates of devices in it.
        """
        return self._call("GET", f"/certificates/{segment(fingerprint)}")

    def certificate_activate(self, fingerprint: str, *, idempotency_key: str | None = None) -> OwnedCertificate:
        """Let it in.

        Needs the role `operator`. Operators with a part of the fleet: for certificates of devices in it.
        """
        return self._call(
            "POST", f"/certificates/{segment(fingerprint)}/activate", headers={"Idempotency-Key": idempotency_key}
        )

    def certificate_deactivate(self, fingerprint: str, *, idempotency_key: str | None = None) -> OwnedCertificate:
        """Refuse it until it is activated again.

        Needs the role `operator`. Operators with a part of the fleet: for certificates of devices in it.
        """
        return self._call(
            "POST", f"/certificates/{segment(fingerprint)}/deactivate", headers={"Idempotency-Key": idempotency_key}
        )

    def certificate_revoke(self, fingerprint: str, *, idempotency_key: str | None = None) -> OwnedCertificate:
        """Refuse it for good.

        Needs the role `operator`. Operators with a part of the fleet: for certificates of devices in it.
        """
        return self._call(
            "POST", f"/certificates/{segment(fingerprint)}/revoke", headers={"Idempotency-Key": idempotency_key}
        )

    def type_list(self) -> list[TypeView]:
        """List device types.

        Needs the role `viewer`.
        """
        return self._call("GET", "/types")

    def type_show(self, name: str) -> TypeView:
        """Show a device type.

        Needs the role `viewer`.
        """
        return self._call("GET", f"/types/{segment(name)}")

    def type_set(
        self,
        name: str,
        *,
        if_match: str | None = None,
        description: str | None = None,
        required: dict[str, ValueKind] | None = None,
        telemetry: dict[str, Any] | None = None,
        messages_per_minute: float | None = None,
    ) -> TypeView:
        """Make a device type, or change it.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "PUT",
            f"/types/{segment(name)}",
            headers={"If-Match": if_match},
            json={
                "description": description,
                "required": required,
                "telemetry": telemetry,
                "messages_per_minute": messages_per_minute,
            },
        )

    def type_delete(self, name: str) -> NamesDeleted:
        """Delete a device type that no device has.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/types/{segment(name)}")

    def group_list(self) -> list[GroupView]:
        """List groups.

        Needs the role `viewer`.
        """
        return self._call("GET", "/groups")

    def group_show(self, name: str) -> OneGroup:
        """Show a group.

        Needs the role `viewer`.
        """
        return self._call("GET", f"/groups/{segment(name)}")

    def group_set(
        self,
        name: str,
        *,
        if_match: str | None = None,
        parent: str | None = None,
        query: str | None = None,
        description: str | None = None,
    ) -> OneGroup:
        """Make a group, or change it.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "PUT",
            f"/groups/{segment(name)}",
            headers={"If-Match": if_match},
            json={"parent": parent, "query": query, "description": description},
        )

    def group_delete(self, name: str) -> NamesDeleted:
        """Delete a group; its devices stay.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/groups/{segment(name)}")

    def group_put_in(self, name: str, *, devices: list[str], idempotency_key: str | None = None) -> OneGroup:
        """Put devices into a static group.

        Needs the role `operator`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            f"/groups/{segment(name)}/devices",
            headers={"Idempotency-Key": idempotency_key},
            json={"devices": devices},
        )

    def group_take_out(self, name: str, *, devices: list[str], idempotency_key: str | None = None) -> OneGroup:
        """Take devices out of a static group.

        Needs the role `operator`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            f"/groups/{segment(name)}/devices/remove",
            headers={"Idempotency-Key": idempotency_key},
            json={"devices": devices},
        )

    def policy_list(self) -> list[PolicyView]:
        """List policies.

        Needs the role `viewer`.
        """
        return self._call("GET", "/policies")

    def policy_show(self, name: str) -> OnePolicy:
        """Show a policy.

        Needs the role `viewer`.
        """
        return self._call("GET", f"/policies/{segment(name)}")

    def policy_set(
        self,
        name: str,
        *,
        document: str,
        if_match: str | None = None,
        description: str | None = None,
        default: bool | None = None,
    ) -> OnePolicy:
        """Make a policy, or a new version of it.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "PUT",
            f"/policies/{segment(name)}",
            headers={"If-Match": if_match},
            json={"document": document, "description": description, "default": default},
        )

    def policy_delete(self, name: str) -> NamesDeleted:
        """Delete a policy that is attached to nothing.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/policies/{segment(name)}")

    def policy_default(
        self, name: str, *, version: int, if_match: str | None = None, idempotency_key: str | None = None
    ) -> OnePolicy:
        """Let another version count.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            f"/policies/{segment(name)}/default",
            headers={"If-Match": if_match, "Idempotency-Key": idempotency_key},
            json={"version": version},
        )

    def policy_version(self, name: str, number: int) -> VersionView:
        """Show a version.

        Needs the role `viewer`.
        """
        return self._call("GET", f"/policies/{segment(name)}/versions/{segment(number)}")

    def policy_delete_version(self, name: str, number: int) -> OnePolicy:
        """Delete a version that does not count.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/policies/{segment(name)}/versions/{segment(number)}")

    def policy_attach(
        self, name: str, *, kind: TargetKind, idempotency_key: str | None = None, target: str | None = None
    ) -> OnePolicy:
        """Attach a policy.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            f"/policies/{segment(name)}/attachments",
            headers={"Idempotency-Key": idempotency_key},
            json={"kind": kind, "target": target},
        )

    def policy_detach(
        self, name: str, *, kind: TargetKind, idempotency_key: str | None = None, target: str | None = None
    ) -> OnePolicy:
        """Detach a policy.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            f"/policies/{segment(name)}/attachments/remove",
            headers={"Idempotency-Key": idempotency_key},
            json={"kind": kind, "target": target},
        )

    def policy_simulate(
        self, *, name: str, document: str, hours: float | None = None, attach: AttachmentBody | None = None
    ) -> Simulated:
        """What a policy would have decided of what was asked lately.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call(
            "POST", "/policy-simulations", json={"name": name, "document": document, "hours": hours, "attach": attach}
        )

    def policy_explain(
        self,
        *,
        device: str,
        publish: str | None = None,
        subscribe: str | None = None,
        receive: str | None = None,
        retain: str | None = None,
        connect: str | None = None,
        source_address: str | None = None,
        certificate: str | None = None,
        tls: str | None = None,
        listener: str | None = None,
        time: str | None = None,
    ) -> Answer:
        """What a device may do, and which statement says so.

        Needs the role `viewer`. Operators with a part of the fleet: for devices in it.
        """
        return self._call(
            "GET",
            "/explain",
            params={
                "device": device,
                "publish": publish,
                "subscribe": subscribe,
                "receive": receive,
                "retain": retain,
                "connect": connect,
                "source_address": source_address,
                "certificate": certificate,
                "tls": tls,
                "listener": listener,
                "time": time,
            },
        )

    def policy_decisions(
        self, *, device: str | None = None, since: str | None = None, limit: int | None = None, all: bool | None = None
    ) -> list[PastAnswer]:
        """What was decided lately, the latest first.

        Needs the role `viewer`. Operators with a part of the fleet: for devices in it.
        """
        return self._call("GET", "/decisions", params={"device": device, "since": since, "limit": limit, "all": all})

    def presence_show(self, name: str) -> PresenceView:
        """Show whether a device is there.

        Needs the role `viewer`. Operators with a part of the fleet: for devices in it.
        """
        return self._call("GET", f"/devices/{segment(name)}/presence")

    def presence_timeline(self, name: str, *, limit: int | None = None) -> list[EventView]:
        """List what happened to a device, the latest first.

        Needs the role `viewer`. Operators with a part of the fleet: for devices in it.
        """
        return self._call("GET", f"/devices/{segment(name)}/timeline", params={"limit": limit})

    def quota_list(self) -> list[QuotaView]:
        """List quotas.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/quotas")

    def quota_set_all(
        self,
        *,
        messages_per_minute: int | None = None,
        bytes_per_minute: int | None = None,
        messages_per_day: int | None = None,
        bytes_per_day: int | None = None,
        over: Over | None = None,
    ) -> QuotaView:
        """Set the quota of all who have none of their own.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "PUT",
            "/quota",
            json={
                "messages_per_minute": messages_per_minute,
                "bytes_per_minute": bytes_per_minute,
                "messages_per_day": messages_per_day,
                "bytes_per_day": bytes_per_day,
                "over": over,
            },
        )

    def quota_delete_all(self) -> QuotasDeleted:
        """Take it away.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", "/quota")

    def quota_set_type(
        self,
        name: str,
        *,
        messages_per_minute: int | None = None,
        bytes_per_minute: int | None = None,
        messages_per_day: int | None = None,
        bytes_per_day: int | None = None,
        over: Over | None = None,
    ) -> QuotaView:
        """Set the quota of each device of a type that has none of its own.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "PUT",
            f"/types/{segment(name)}/quota",
            json={
                "messages_per_minute": messages_per_minute,
                "bytes_per_minute": bytes_per_minute,
                "messages_per_day": messages_per_day,
                "bytes_per_day": bytes_per_day,
                "over": over,
            },
        )

    def quota_delete_type(self, name: str) -> QuotasDeleted:
        """Take it away.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/types/{segment(name)}/quota")

    def quota_set(
        self,
        name: str,
        *,
        messages_per_minute: int | None = None,
        bytes_per_minute: int | None = None,
        messages_per_day: int | None = None,
        bytes_per_day: int | None = None,
        over: Over | None = None,
    ) -> QuotaView:
        """Set the quota of a device.

        Needs the role `operator`. Operators with a part of the fleet: for devices in it.
        """
        return self._call(
            "PUT",
            f"/devices/{segment(name)}/quota",
            json={
                "messages_per_minute": messages_per_minute,
                "bytes_per_minute": bytes_per_minute,
                "messages_per_day": messages_per_day,
                "bytes_per_day": bytes_per_day,
                "over": over,
            },
        )

    def quota_delete(self, name: str) -> QuotasDeleted:
        """Take the quota of a device away; that of all counts then.

        Needs the role `operator`. Operators with a part of the fleet: for devices in it.
        """
        return self._call("DELETE", f"/devices/{segment(name)}/quota")

    def quota_usage(self, name: str, *, days: int | None = None) -> UsageView:
        """How much a device sent, by day.

        Needs the role `viewer`. Operators with a part of the fleet: for devices in it.
        """
        return self._call("GET", f"/devices/{segment(name)}/usage", params={"days": days})

    def lifecycle_list(self) -> list[RuleView]:
        """List rules.

        Needs the role `viewer`.
        """
        return self._call("GET", "/lifecycle-rules")

    def lifecycle_show(self, name: str) -> RuleView:
        """Show a rule.

        Needs the role `viewer`.
        """
        return self._call("GET", f"/lifecycle-rules/{segment(name)}")

    def lifecycle_set(self, name: str, *, document: str, if_match: str | None = None) -> RuleView:
        """Make a rule, or change it: it does nothing until it ran dry and is enabled.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "PUT", f"/lifecycle-rules/{segment(name)}", headers={"If-Match": if_match}, json={"document": document}
        )

    def lifecycle_delete(self, name: str) -> NamesDeleted:
        """Delete a rule.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/lifecycle-rules/{segment(name)}")

    def lifecycle_dry_run(self, name: str, *, idempotency_key: str | None = None) -> RunView:
        """Say what it would do now.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST", f"/lifecycle-rules/{segment(name)}/dry-run", headers={"Idempotency-Key": idempotency_key}
        )

    def lifecycle_run(self, name: str, *, idempotency_key: str | None = None) -> RunView:
        """Do now what it says.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("POST", f"/lifecycle-rules/{segment(name)}/run", headers={"Idempotency-Key": idempotency_key})

    def lifecycle_enable(self, name: str, *, idempotency_key: str | None = None) -> RuleView:
        """Let it run by itself.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST", f"/lifecycle-rules/{segment(name)}/enable", headers={"Idempotency-Key": idempotency_key}
        )

    def lifecycle_disable(self, name: str, *, idempotency_key: str | None = None) -> RuleView:
        """Let it run no more.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST", f"/lifecycle-rules/{segment(name)}/disable", headers={"Idempotency-Key": idempotency_key}
        )

    def device_bulk(
        self,
        *,
        action: ActionKind,
        idempotency_key: str | None = None,
        devices: list[str] | None = None,
        query: str | None = None,
        change: DeviceChange | None = None,
        purge: bool | None = None,
        dry_run: bool | None = None,
    ) -> OperationView:
        """Do something to many devices.

        Needs the role `operator`. Operators with a part of the fleet see and change what is in it.
        """
        return self._call(
            "POST",
            "/device-actions",
            headers={"Idempotency-Key": idempotency_key},
            json={
                "action": action,
                "devices": devices,
                "query": query,
                "change": change,
                "purge": purge,
                "dry_run": dry_run,
            },
        )

    def device_import(
        self,
        content: bytes,
        content_type: Literal["text/csv", "application/x-ndjson"],
        *,
        dry_run: bool | None = None,
        skip_bad: bool | None = None,
    ) -> OperationView:
        """Register a list of devices: CSV or JSON lines.

        Needs the role `operator`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            "/device-imports",
            params={"dry_run": dry_run, "skip_bad": skip_bad},
            content=content,
            headers={"Content-Type": content_type},
        )

    def operation_show(self, operation: str) -> OperationView:
        """Show how far an operation is.

        Needs the role `viewer`. Operators with a part of the fleet see and change what is in it.
        """
        return self._call("GET", f"/operations/{segment(operation)}")

    def provisioning_check(self, *, certificate: str) -> VerdictView:
        """Say, rule by rule, what would happen to a certificate.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("POST", "/provisioning/check", json={"certificate": certificate})

    def provisioning_list(
        self, *, how: str | None = None, by: str | None = None, limit: int | None = None
    ) -> list[NoteView]:
        """What came of requests for identities, the latest first.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/provisionings", params={"how": how, "by": by, "limit": limit})

    def certificate_pending(self) -> list[PendingView]:
        """Certificates that wait for somebody to activate them.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/pending-certificates")

    def template_list(self) -> list[TemplateView]:
        """List templates.

        Needs the role `viewer`.
        """
        return self._call("GET", "/templates")

    def template_show(self, name: str) -> TemplateView:
        """Show a template.

        Needs the role `viewer`.
        """
        return self._call("GET", f"/templates/{segment(name)}")

    def template_set(self, name: str, *, document: str, if_match: str | None = None) -> TemplateView:
        """Make a template, or change it.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "PUT", f"/templates/{segment(name)}", headers={"If-Match": if_match}, json={"document": document}
        )

    def template_delete(self, name: str) -> NamesDeleted:
        """Delete a template that nothing needs.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/templates/{segment(name)}")

    def claim_list(self) -> list[ClaimView]:
        """List claims.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/claims")

    def claim_add(
        self,
        *,
        name: str,
        template: str,
        csr: str,
        idempotency_key: str | None = None,
        max_uses: int | None = None,
        per_hour: int | None = None,
        days: float | None = None,
    ) -> AddedClaim:
        """Make a claim and its certificate.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            "/claims",
            headers={"Idempotency-Key": idempotency_key},
            json={
                "name": name,
                "template": template,
                "csr": csr,
                "max_uses": max_uses,
                "per_hour": per_hour,
                "days": days,
            },
        )

    def claim_show(self, name: str) -> ClaimView:
        """Show a claim.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", f"/claims/{segment(name)}")

    def claim_delete(self, name: str) -> NamesDeleted:
        """Delete a claim; devices that came by it stay.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/claims/{segment(name)}")

    def claim_revoke(self, name: str, *, idempotency_key: str | None = None) -> ClaimView:
        """Revoke its certificate for good.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("POST", f"/claims/{segment(name)}/revoke", headers={"Idempotency-Key": idempotency_key})

    def enrolment_list(self) -> list[ListView]:
        """List enrolment lists.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/enrolment-lists")

    def enrolment_show(self, name: str, *, after: str | None = None, limit: int | None = None) -> list[EntryView]:
        """Who is on a list.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", f"/enrolment-lists/{segment(name)}", params={"after": after, "limit": limit})

    def enrolment_set(self, name: str, *, entries: list[EntryBody], kind: ListKind | None = None) -> ListView:
        """Make a list, or add to it: all or none.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("PUT", f"/enrolment-lists/{segment(name)}", json={"kind": kind, "entries": entries})

    def enrolment_delete(self, name: str) -> NamesDeleted:
        """Delete a list; devices that came by it stay.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/enrolment-lists/{segment(name)}")

    def authority_list(self) -> list[AuthorityView]:
        """List certificate authorities of others.

        Needs the role `viewer`.
        """
        return self._call("GET", "/authorities")

    def authority_show(self, name: str) -> AuthorityView:
        """Show an authority.

        Needs the role `viewer`.
        """
        return self._call("GET", f"/authorities/{segment(name)}")

    def authority_set(
        self,
        name: str,
        *,
        certificate: str,
        if_match: str | None = None,
        mode: Mode | None = None,
        template: str | None = None,
        identity: Source | None = None,
    ) -> AuthorityView:
        """Let the certificates of an authority count, or change how.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "PUT",
            f"/authorities/{segment(name)}",
            headers={"If-Match": if_match},
            json={"certificate": certificate, "mode": mode, "template": template, "identity": identity},
        )

    def authority_delete(self, name: str) -> NamesDeleted:
        """Let its certificates count no more.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/authorities/{segment(name)}")

    def stream_list(self) -> list[StreamView]:
        """List streams that are defined.

        Needs the role `viewer`.
        """
        return self._call("GET", "/streams")

    def stream_show(self, name: str) -> StreamView:
        """Show the definition of a stream.

        Needs the role `viewer`.
        """
        return self._call("GET", f"/streams/{segment(name)}")

    def stream_set(self, name: str, body: dict[str, Any], *, if_match: str | None = None) -> StreamView:
        """Define a stream, or change it.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("PUT", f"/streams/{segment(name)}", headers={"If-Match": if_match}, json=body)

    def stream_delete(self, name: str) -> NamesDeleted:
        """Delete a definition; what was stored by it stays.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/streams/{segment(name)}")

    def stream_fields(self, *, stream: str | None = None) -> list[ObservedView]:
        """What streams really send, and what is new of it.

        Needs the role `viewer`.
        """
        return self._call("GET", "/stream-fields", params={"stream": stream})

    def stream_try(
        self, *, topic: str, payload_base64: str, device: str | None = None, content_type: str | None = None
    ) -> list[TrialView]:
        """What each codec would make of a payload.

        Needs the role `viewer`.
        """
        return self._call(
            "POST",
            "/codec-trials",
            json={"topic": topic, "device": device, "content_type": content_type, "payload_base64": payload_base64},
        )

    def store_show(self) -> StoreView:
        """What is in which tier.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/store")

    def store_files(self, *, after: int | None = None, limit: int | None = None) -> list[FileView]:
        """List the files of the history.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/store/files", params={"after": after, "limit": limit})

    def store_seal(self, *, idempotency_key: str | None = None) -> SealResult:
        """Seal what is in the journal now, and merge small files.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("POST", "/store/seal", headers={"Idempotency-Key": idempotency_key})

    def store_migrate(self, *, idempotency_key: str | None = None, url: str | None = None) -> OperationView:
        """Copy the history into PostgreSQL.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("POST", "/store/migrate", headers={"Idempotency-Key": idempotency_key}, json={"url": url})

    def store_scrub(self, *, idempotency_key: str | None = None) -> list[DamageView]:
        """Read every file of the history, and say what is damaged.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("POST", "/store/scrub", headers={"Idempotency-Key": idempotency_key})

    def telemetry_sql(
        self,
        *,
        sql: str,
        format: Form | None = None,
        seconds: float | None = None,
        memory_bytes: int | None = None,
        rows: int | None = None,
    ) -> Any:
        """Answer one SELECT.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            "/sql",
            json={"sql": sql, "format": format, "seconds": seconds, "memory_bytes": memory_bytes, "rows": rows},
        )

    def telemetry_buckets(
        self,
        *,
        field: str,
        bucket: str,
        query: str | None = None,
        by: str | None = None,
        stream: str | None = None,
        from_: str | None = None,
        to: str | None = None,
    ) -> Any:
        """One field of many devices over time.

        Needs the role `viewer`. Operators with a part of the fleet see and change what is in it.
        """
        return self._call(
            "GET",
            "/telemetry/buckets",
            params={
                "field": field,
                "bucket": bucket,
                "query": query,
                "by": by,
                "stream": stream,
                "from": from_,
                "to": to,
            },
        )

    def dataset_list(self) -> list[DatasetView]:
        """List datasets.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/datasets")

    def dataset_show(self, name: str) -> DatasetView:
        """Show a dataset.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", f"/datasets/{segment(name)}")

    def dataset_set(
        self,
        name: str,
        *,
        sql: str,
        if_match: str | None = None,
        every: str | None = None,
        format: Form | None = None,
        keep: int | None = None,
        folder: str | None = None,
        webhook: str | None = None,
        seconds: float | None = None,
        memory_bytes: int | None = None,
        rows: int | None = None,
    ) -> DatasetView:
        """Define a dataset, or change it; it goes on where it was.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "PUT",
            f"/datasets/{segment(name)}",
            headers={"If-Match": if_match},
            json={
                "sql": sql,
                "every": every,
                "format": format,
                "keep": keep,
                "folder": folder,
                "webhook": webhook,
                "seconds": seconds,
                "memory_bytes": memory_bytes,
                "rows": rows,
            },
        )

    def dataset_delete(self, name: str) -> NamesDeleted:
        """Delete a dataset and its results; what was delivered stays.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/datasets/{segment(name)}")

    def dataset_run(self, name: str, *, idempotency_key: str | None = None) -> ResultView:
        """Ask now, whatever the schedule says.

        Needs the role `operator`. For operators of the whole fleet.
        """
        return self._call("POST", f"/datasets/{segment(name)}/run", headers={"Idempotency-Key": idempotency_key})

    def dataset_results(self, name: str) -> list[ResultView]:
        """List the results that are kept, the oldest first.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", f"/datasets/{segment(name)}/results")

    def dataset_result(self, name: str, *, number: int | None = None) -> Any:
        """One result as it was made, the newest or by number.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", f"/datasets/{segment(name)}/result", params={"number": number})

    def telemetry_query(
        self,
        name: str,
        *,
        stream: str | None = None,
        from_: str | None = None,
        to: str | None = None,
        field: str | None = None,
        bucket: str | None = None,
        stats: str | None = None,
        fill: str | None = None,
        points: int | None = None,
        limit: int | None = None,
    ) -> Any:
        """Readings of a device, oldest first.

        Needs the role `viewer`. Operators with a part of the fleet: for devices in it.
        """
        return self._call(
            "GET",
            f"/devices/{segment(name)}/telemetry",
            params={
                "stream": stream,
                "from": from_,
                "to": to,
                "field": field,
                "bucket": bucket,
                "stats": stats,
                "fill": fill,
                "points": points,
                "limit": limit,
            },
        )

    def telemetry_last(self, name: str) -> list[dict[str, Any]]:
        """The newest reading of each stream.

        Needs the role `viewer`. Operators with a part of the fleet: for devices in it.
        """
        return self._call("GET", f"/devices/{segment(name)}/telemetry/last")

    def device_clock(self, name: str) -> dict[str, Any]:
        """How far the clock of a device is off.

        Needs the role `viewer`. Operators with a part of the fleet: for devices in it.
        """
        return self._call("GET", f"/devices/{segment(name)}/clock")

    def telemetry_recent(self, *, limit: int | None = None) -> list[dict[str, Any]]:
        """What was stored last, of any device.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/telemetry/recent", params={"limit": limit})

    def telemetry_settled(self) -> dict[str, str]:
        """A time up to which all that was received is stored.

        Needs the role `viewer`.
        """
        return self._call("GET", "/telemetry/settled")

    def telemetry_tail(self, *, device: str | None = None) -> Iterator[dict[str, Any]]:
        """What is committed and refused, live, as JSON lines.

        Needs the role `viewer`. Operators with a part of the fleet: for devices in it.
        """
        return self._lines("GET", "/tail", params={"device": device})

    def quarantine_list(
        self, *, after: int | None = None, limit: int | None = None, reason: str | None = None
    ) -> list[dict[str, Any]]:
        """List quarantined messages, oldest first.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/quarantine", params={"after": after, "limit": limit, "reason": reason})

    def quarantine_summary(self) -> list[SummaryView]:
        """How many there are of each reason, and how many were deleted unread.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/quarantine/summary")

    def quarantine_show(self, entry: int) -> dict[str, Any]:
        """Show one, with its payload.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", f"/quarantine/{segment(entry)}")

    def quarantine_replay(
        self,
        *,
        idempotency_key: str | None = None,
        ids: list[int] | None = None,
        reason: str | None = None,
        payload_base64: str | None = None,
    ) -> ReplayResult:
        """Read messages again and store those that can be read.

        Needs the role `operator`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            "/quarantine/replay",
            headers={"Idempotency-Key": idempotency_key},
            json={"ids": ids, "reason": reason, "payload_base64": payload_base64},
        )

    def message_publish(
        self,
        *,
        topic: str,
        idempotency_key: str | None = None,
        payload: str | None = None,
        payload_base64: str | None = None,
        qos: int | None = None,
        retain: bool | None = None,
    ) -> Published:
        """Publish a message.

        Needs the role `operator`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            "/messages",
            headers={"Idempotency-Key": idempotency_key},
            json={"topic": topic, "payload": payload, "payload_base64": payload_base64, "qos": qos, "retain": retain},
        )

    def connection_list(self, *, after: str | None = None, limit: int | None = None) -> ConnectionPage:
        """List connections.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", "/connections", params={"after": after, "limit": limit})

    def connection_show(self, client_id: str) -> ConnectionView:
        """Show a connection.

        Needs the role `viewer`. For operators of the whole fleet.
        """
        return self._call("GET", f"/connections/{segment(client_id, slashes=True)}")

    def connection_close(self, client_id: str) -> Done:
        """End a connection; it may come back.

        Needs the role `operator`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/connections/{segment(client_id, slashes=True)}")

    def connection_packets(self, *, device: str | None = None) -> Iterator[dict[str, Any]]:
        """Packets of a device's connection, or of all, live.

        Needs the role `operator`. Operators with a part of the fleet: for devices in it.
        """
        return self._lines("GET", "/packets", params={"device": device})

    def tls_reload(self, *, idempotency_key: str | None = None) -> Done:
        """Read certificates and revocation lists anew.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("POST", "/tls/reload", headers={"Idempotency-Key": idempotency_key})

    def change_watch(
        self, *, kinds: list[Kind] | None = None, device: str | None = None, last_event_id: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Changes as they happen, as server-sent events.

        Needs the role `viewer`. Operators with a part of the fleet see and change what is in it.
        """
        return self._lines(
            "GET", "/changes", params={"kinds": kinds, "device": device}, headers={"last-event-id": last_event_id}
        )

    def device_top(self, *, limit: int | None = None) -> TopView:
        """The busiest, the most refused and the newest devices, now.

        Needs the role `viewer`. Operators with a part of the fleet see and change what is in it.
        """
        return self._call("GET", "/top", params={"limit": limit})

    def backup_make(
        self, *, file: str, idempotency_key: str | None = None, passphrase: str | None = None
    ) -> OperationView:
        """Copy the state folder while everything goes on.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "POST",
            "/backups",
            headers={"Idempotency-Key": idempotency_key},
            json={"file": file, "passphrase": passphrase},
        )

    def operator_me(self) -> Me:
        """Show who calls.

        Needs the role `viewer`.
        """
        return self._call("GET", "/me")

    def operator_actions(self) -> list[ActionView]:
        """List what can be done, and who may.

        Needs the role `viewer`.
        """
        return self._call("GET", "/actions")

    def operator_list(self) -> list[OperatorView]:
        """List operators.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("GET", "/operators")

    def operator_show(self, name: str) -> OperatorView:
        """Show an operator.

        Needs the role `viewer`. About others: for admins of the whole fleet.
        """
        return self._call("GET", f"/operators/{segment(name)}")

    def operator_set(
        self,
        name: str,
        *,
        role: Role,
        if_match: str | None = None,
        groups: list[str] | None = None,
        sites: list[str] | None = None,
        description: str | None = None,
        disabled: bool | None = None,
    ) -> OperatorView:
        """Make an operator, or change it.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "PUT",
            f"/operators/{segment(name)}",
            headers={"If-Match": if_match},
            json={"groups": groups, "sites": sites, "role": role, "description": description, "disabled": disabled},
        )

    def operator_delete(self, name: str) -> NamesDeleted:
        """Take an operator away, with its tokens.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("DELETE", f"/operators/{segment(name)}")

    def operator_password(self, name: str, *, password: Any, current: str | None = None) -> OperatorView:
        """Give an operator a password.

        Needs the role `viewer`. About others: for admins of the whole fleet.
        """
        return self._call(
            "PUT", f"/operators/{segment(name)}/password", json={"password": password, "current": current}
        )

    def operator_explain(self, name: str, *, action: str, device: str | None = None) -> Explanation:
        """Say whether an operator may do something, and why not.

        Needs the role `viewer`. About others: for admins of the whole fleet.
        """
        return self._call("GET", f"/operators/{segment(name)}/explanation", params={"action": action, "device": device})

    def token_list(self, name: str) -> list[TokenView]:
        """List the tokens of an operator.

        Needs the role `viewer`. About others: for admins of the whole fleet.
        """
        return self._call("GET", f"/operators/{segment(name)}/tokens")

    def token_add(
        self,
        name: str,
        *,
        groups: list[str] | None = None,
        sites: list[str] | None = None,
        role: Role | None = None,
        description: str | None = None,
        days: float | None = None,
    ) -> MadeToken:
        """Make a token.

        Needs the role `viewer`. About others: for admins of the whole fleet.
        """
        return self._call(
            "POST",
            f"/operators/{segment(name)}/tokens",
            json={"groups": groups, "sites": sites, "role": role, "description": description, "days": days},
        )

    def token_revoke(self, name: str, token: str) -> TokenView:
        """Let a token count no more.

        Needs the role `viewer`. About others: for admins of the whole fleet.
        """
        return self._call("DELETE", f"/operators/{segment(name)}/tokens/{segment(token)}")

    def session_show(self) -> LoggedIn:
        """Show who is logged in.

        Needs the role `viewer`.
        """
        return self._call("GET", "/session")

    def session_login(self, *, name: str, password: str) -> LoggedIn:
        """Log in with a browser.

        Needs the role `viewer`.
        """
        return self._call("POST", "/session", json={"name": name, "password": password})

    def session_logout(self) -> LoggedOut:
        """Log out.

        Needs the role `viewer`.
        """
        return self._call("DELETE", "/session")

    def audit_list(
        self,
        *,
        before: int | None = None,
        limit: int | None = None,
        actor: str | None = None,
        action: str | None = None,
        outcome: Outcome | None = None,
        target: str | None = None,
        from_: str | None = None,
        to: str | None = None,
    ) -> AuditPage:
        """List entries of the audit log, the newest first.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call(
            "GET",
            "/audit",
            params={
                "before": before,
                "limit": limit,
                "actor": actor,
                "action": action,
                "outcome": outcome,
                "target": target,
                "from": from_,
                "to": to,
            },
        )

    def audit_export(self) -> Iterator[dict[str, Any]]:
        """All entries as JSON lines, and the signed end.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._lines("GET", "/audit/export")

    def audit_checkpoint(self) -> CheckpointBody:
        """The signed end of the log.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("GET", "/audit/checkpoint")

    def audit_verify(self, *, checkpoints: list[CheckpointBody] | None = None) -> Verification:
        """Say whether the log is as it was written.

        Needs the role `admin`. For operators of the whole fleet.
        """
        return self._call("POST", "/audit/verify", json={"checkpoints": checkpoints})
