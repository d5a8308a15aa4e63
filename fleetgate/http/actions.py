"""The policy of the API: what each of its routes is called, who may do that, and in which part of the fleet."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from fleet.operators.model import Role


class Reach(Enum):
    """Which operators may do something who have a part of the fleet only."""

    OPEN = auto()
    """All: it tells nothing of devices."""
    WITHIN = auto()
    """All: the route keeps to what is theirs."""
    DEVICE = auto()
    """Those who have the device, which is `{name}` in the path or `device` in the query."""
    CERTIFICATE = auto()
    """Those who have the device whose certificate it is, `{fingerprint}` in the path."""
    WHOLE = auto()
    """None."""
    SELF = auto()
    """All, where it is about themselves, `{name}` in the path; else admins of the whole fleet."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a route does: its name, the least role, and how far it reaches.

    `kind` is what it is done to, whose name is `{name}` in the path, or in the query or body `named`; `facts` are keys
    of the body that belong into the audit log. `audited`: it has an entry there, done or not.
    """

    name: str
    role: Role
    reach: Reach
    kind: str = ""
    named: str = "name"
    facts: tuple[str, ...] = ()
    audited: bool = True


def _look(name: str, reach: Reach, role: Role = Role.VIEWER, kind: str = "") -> Action:
    """Nothing is changed, and nothing written down."""
    return Action(name, role, reach, kind, audited=False)


def _run(name: str, reach: Reach, kind: str = "", named: str = "name", facts: tuple[str, ...] = ()) -> Action:
    return Action(name, Role.OPERATOR, reach, kind, named, facts)


def _rule(name: str, kind: str = "", named: str = "name", facts: tuple[str, ...] = ()) -> Action:
    return Action(name, Role.ADMIN, Reach.WHOLE, kind, named, facts)


ACTIONS: Mapping[str, Action] = {
    "GET /devices": _look("device.list", Reach.WITHIN),
    "GET /device-counts": _look("device.count", Reach.WITHIN),
    "POST /devices": _run("device.add", Reach.WITHIN, "device"),
    "GET /devices/{name}": _look("device.show", Reach.DEVICE, kind="device"),
    "PATCH /devices/{name}": _run("device.set", Reach.DEVICE, "device"),
    "POST /devices/{name}/disable": _run("device.disable", Reach.DEVICE, "device"),
    "POST /devices/{name}/enable": _run("device.enable", Reach.DEVICE, "device"),
    "POST /devices/{name}/retire": _run("device.retire", Reach.DEVICE, "device"),
    "POST /devices/{name}/revoke": _run("device.revoke", Reach.DEVICE, "device"),
    "DELETE /devices/{name}": Action("device.delete", Role.ADMIN, Reach.DEVICE, "device"),
    "POST /devices/{name}/certificates": _run("certificate.add", Reach.DEVICE, "device"),
    "POST /device-actions": _run("device.bulk", Reach.WITHIN, facts=("action", "devices", "query", "purge", "dry_run")),
    "POST /device-imports": _run("device.import", Reach.WHOLE),
    "GET /devices/{name}/telemetry": _look("telemetry.query", Reach.DEVICE),
    "GET /devices/{name}/telemetry/last": _look("telemetry.last", Reach.DEVICE),
    "GET /devices/{name}/clock": _look("device.clock", Reach.DEVICE),
    "GET /devices/{name}/presence": _look("presence.show", Reach.DEVICE),
    "GET /devices/{name}/timeline": _look("presence.timeline", Reach.DEVICE),
    "GET /devices/{name}/usage": _look("quota.usage", Reach.DEVICE),
    "PUT /devices/{name}/quota": _run("quota.set", Reach.DEVICE, "quota"),
    "DELETE /devices/{name}/quota": _run("quota.delete", Reach.DEVICE, "quota"),
    "PUT /types/{name}/quota": _rule("quota.set_type", "type"),
    "DELETE /types/{name}/quota": _rule("quota.delete_type", "type"),
    "GET /quotas": _look("quota.list", Reach.WHOLE),
    "PUT /quota": _rule("quota.set_all", "quota"),
    "DELETE /quota": _rule("quota.delete_all", "quota"),
    "GET /applications": _look("application.list", Reach.WHOLE),
    "POST /applications": _rule("application.add", "application"),
    "GET /applications/{name}": _look("application.show", Reach.WHOLE),
    "POST /applications/{name}/disable": _rule("application.disable", "application"),
    "POST /applications/{name}/enable": _rule("application.enable", "application"),
    "POST /applications/{name}/retire": _rule("application.retire", "application"),
    "POST /applications/{name}/revoke": _rule("application.revoke", "application"),
    "DELETE /applications/{name}": _rule("application.delete", "application"),
    "POST /applications/{name}/certificates": _rule("application.add_certificate", "application"),
    "GET /certificates/{fingerprint}": _look("certificate.show", Reach.CERTIFICATE),
    "POST /certificates/{fingerprint}/activate": _run(
        "certificate.activate", Reach.CERTIFICATE, "certificate", "fingerprint"
    ),
    "POST /certificates/{fingerprint}/deactivate": _run(
        "certificate.deactivate", Reach.CERTIFICATE, "certificate", "fingerprint"
    ),
    "POST /certificates/{fingerprint}/revoke": _run(
        "certificate.revoke", Reach.CERTIFICATE, "certificate", "fingerprint"
    ),
    "GET /pending-certificates": _look("certificate.pending", Reach.WHOLE),
    "GET /types": _look("type.list", Reach.OPEN),
    "GET /types/{name}": _look("type.show", Reach.OPEN),
    "PUT /types/{name}": _rule("type.set", "type"),
    "DELETE /types/{name}": _rule("type.delete", "type"),
    "GET /groups": _look("group.list", Reach.OPEN),
    "GET /groups/{name}": _look("group.show", Reach.OPEN),
    "PUT /groups/{name}": _rule("group.set", "group"),
    "DELETE /groups/{name}": _rule("group.delete", "group"),
    "POST /groups/{name}/devices": _run("group.put_in", Reach.WHOLE, "group", facts=("devices",)),
    "POST /groups/{name}/devices/remove": _run("group.take_out", Reach.WHOLE, "group", facts=("devices",)),
    "GET /lifecycle-rules": _look("lifecycle.list", Reach.OPEN),
    "GET /lifecycle-rules/{name}": _look("lifecycle.show", Reach.OPEN),
    "PUT /lifecycle-rules/{name}": _rule("lifecycle.set", "rule"),
    "DELETE /lifecycle-rules/{name}": _rule("lifecycle.delete", "rule"),
    "POST /lifecycle-rules/{name}/dry-run": _rule("lifecycle.dry_run", "rule"),
    "POST /lifecycle-rules/{name}/run": _rule("lifecycle.run", "rule"),
    "POST /lifecycle-rules/{name}/enable": _rule("lifecycle.enable", "rule"),
    "POST /lifecycle-rules/{name}/disable": _rule("lifecycle.disable", "rule"),
    "GET /policies": _look("policy.list", Reach.OPEN),
    "GET /policies/{name}": _look("policy.show", Reach.OPEN),
    "PUT /policies/{name}": _rule("policy.set", "policy"),
    "DELETE /policies/{name}": _rule("policy.delete", "policy"),
    "POST /policies/{name}/default": _rule("policy.default", "policy"),
    "GET /policies/{name}/versions/{number}": _look("policy.version", Reach.OPEN),
    "DELETE /policies/{name}/versions/{number}": _rule("policy.delete_version", "policy"),
    "POST /policies/{name}/attachments": _rule("policy.attach", "policy", facts=("kind", "target")),
    "POST /policies/{name}/attachments/remove": _rule("policy.detach", "policy", facts=("kind", "target")),
    "POST /policy-simulations": _look("policy.simulate", Reach.WHOLE),
    "GET /explain": _look("policy.explain", Reach.DEVICE),
    "GET /decisions": _look("policy.decisions", Reach.DEVICE),
    "GET /operations/{operation}": _look("operation.show", Reach.WITHIN),
    "POST /provisioning/check": _look("provisioning.check", Reach.WHOLE),
    "GET /provisionings": _look("provisioning.list", Reach.WHOLE),
    "GET /templates": _look("template.list", Reach.OPEN),
    "GET /templates/{name}": _look("template.show", Reach.OPEN),
    "PUT /templates/{name}": _rule("template.set", "template"),
    "DELETE /templates/{name}": _rule("template.delete", "template"),
    "GET /claims": _look("claim.list", Reach.WHOLE),
    "POST /claims": _rule("claim.add", "claim"),
    "GET /claims/{name}": _look("claim.show", Reach.WHOLE),
    "DELETE /claims/{name}": _rule("claim.delete", "claim"),
    "POST /claims/{name}/revoke": _rule("claim.revoke", "claim"),
    "GET /enrolment-lists": _look("enrolment.list", Reach.WHOLE),
    "GET /enrolment-lists/{name}": _look("enrolment.show", Reach.WHOLE),
    "PUT /enrolment-lists/{name}": _rule("enrolment.set", "enrolment"),
    "DELETE /enrolment-lists/{name}": _rule("enrolment.delete", "enrolment"),
    "GET /authorities": _look("authority.list", Reach.OPEN),
    "GET /authorities/{name}": _look("authority.show", Reach.OPEN),
    "PUT /authorities/{name}": _rule("authority.set", "authority"),
    "DELETE /authorities/{name}": _rule("authority.delete", "authority"),
    "GET /streams": _look("stream.list", Reach.OPEN),
    "GET /streams/{name}": _look("stream.show", Reach.OPEN),
    "PUT /streams/{name}": _rule("stream.set", "stream"),
    "DELETE /streams/{name}": _rule("stream.delete", "stream"),
    "GET /stream-fields": _look("stream.fields", Reach.OPEN),
    "POST /codec-trials": _look("stream.try", Reach.OPEN),
    "GET /store": _look("store.show", Reach.WHOLE),
    "GET /store/files": _look("store.files", Reach.WHOLE),
    "POST /store/seal": _rule("store.seal"),
    "POST /store/migrate": _rule("store.migrate"),
    "POST /store/scrub": _rule("store.scrub"),
    "POST /sql": _look("telemetry.sql", Reach.WHOLE),
    "GET /telemetry/buckets": _look("telemetry.buckets", Reach.WITHIN),
    "GET /telemetry/recent": _look("telemetry.recent", Reach.WHOLE),
    "GET /telemetry/settled": _look("telemetry.settled", Reach.OPEN),
    "GET /top": _look("device.top", Reach.WITHIN),
    "GET /changes": _look("change.watch", Reach.WITHIN),
    "GET /tail": _look("telemetry.tail", Reach.DEVICE),
    "GET /datasets": _look("dataset.list", Reach.WHOLE),
    "GET /datasets/{name}": _look("dataset.show", Reach.WHOLE),
    "PUT /datasets/{name}": _rule("dataset.set", "dataset"),
    "DELETE /datasets/{name}": _rule("dataset.delete", "dataset"),
    "POST /datasets/{name}/run": _run("dataset.run", Reach.WHOLE, "dataset"),
    "GET /datasets/{name}/results": _look("dataset.results", Reach.WHOLE),
    "GET /datasets/{name}/result": _look("dataset.result", Reach.WHOLE),
    "GET /quarantine": _look("quarantine.list", Reach.WHOLE),
    "GET /quarantine/summary": _look("quarantine.summary", Reach.WHOLE),
    "GET /quarantine/{entry:int}": _look("quarantine.show", Reach.WHOLE),
    "POST /quarantine/replay": _run("quarantine.replay", Reach.WHOLE),
    "POST /messages": _run("message.publish", Reach.WHOLE, "topic", "topic", facts=("qos", "retain")),
    "GET /connections": _look("connection.list", Reach.WHOLE),
    "GET /connections/{client_id:path}": _look("connection.show", Reach.WHOLE),
    "DELETE /connections/{client_id:path}": _run("connection.close", Reach.WHOLE, "client", "client_id"),
    "GET /packets": Action("connection.packets", Role.OPERATOR, Reach.DEVICE),
    "POST /tls/reload": _rule("tls.reload"),
    "POST /backups": _rule("backup.make", facts=("file",)),
    "GET /me": _look("operator.me", Reach.OPEN),
    "GET /actions": _look("operator.actions", Reach.OPEN),
    "GET /operators": _look("operator.list", Reach.WHOLE, Role.ADMIN),
    "GET /operators/{name}": _look("operator.show", Reach.SELF),
    "PUT /operators/{name}": _rule("operator.set", "operator"),
    "DELETE /operators/{name}": _rule("operator.delete", "operator"),
    "PUT /operators/{name}/password": Action("operator.password", Role.VIEWER, Reach.SELF, "operator"),
    "GET /operators/{name}/explanation": _look("operator.explain", Reach.SELF),
    "GET /operators/{name}/tokens": _look("token.list", Reach.SELF),
    "POST /operators/{name}/tokens": Action("token.add", Role.VIEWER, Reach.SELF, "operator", facts=("role", "days")),
    "DELETE /operators/{name}/tokens/{token}": Action("token.revoke", Role.VIEWER, Reach.SELF, "operator"),
    "POST /session": _look("session.login", Reach.OPEN),
    "GET /session": _look("session.show", Reach.OPEN),
    "DELETE /session": Action("session.logout", Role.VIEWER, Reach.OPEN),
    "GET /audit": _look("audit.list", Reach.WHOLE, Role.ADMIN),
    "GET /audit/export": Action("audit.export", Role.ADMIN, Reach.WHOLE),
    "GET /audit/checkpoint": _look("audit.checkpoint", Reach.WHOLE, Role.ADMIN),
    "POST /audit/verify": _look("audit.verify", Reach.WHOLE, Role.ADMIN),
}
"""By method and path below /api/v1: a route that is not here can't be called."""
