"""Policies: versions, attachments, what they decide and why, what they decided, and what others would have."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from broker_plugins.auth import owner_of_device
from broker_plugins.engine.router import split_share
from broker_plugins.engine.topics import why_invalid
from fleet.documents import MAX_BYTES
from fleet.identity import Kind
from fleet.policy.compiled import Attached, Caller, Compiled, Decision
from fleet.policy.decisions import Kept
from fleet.policy.document import Action
from fleet.policy.explain import UNDECIDED, Change, explain, simulate
from fleet.policy.model import Policy, Target, TargetKind
from fleet.policy.pattern import CONNECTION
from fleet.policy.text import read_text
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.http.names import TIME_PATTERN, Deleted, Name, looks_like
from fleetgate.http.versions import IfMatch, expected_version, with_version
from fleetgate.times import iso, parse_time
from ingester.clock import now_us

_LIMIT = 1000
_FINGERPRINT = "certificate.fingerprint"
_IN_CERTIFICATE = frozenset(name for name in CONNECTION if name.startswith("certificate.")) - {_FINGERPRINT}


class NewVersion(BaseModel):
    """A version of a policy: `document` as JSON or YAML text."""

    model_config = ConfigDict(extra="forbid")
    document: str = Field(max_length=MAX_BYTES, description="policy document, as JSON or YAML text")
    description: str | None = Field(None, max_length=1024)
    default: bool = Field(True, description="whether it counts from now on")


_TARGETS: JsonDict = {
    "anyOf": [
        {"properties": {"kind": {"const": TargetKind.ALL.value}, "target": {"const": ""}}},
        {
            "required": ["target"],
            "properties": {
                "kind": {"enum": [kind.value for kind in TargetKind if kind is not TargetKind.ALL]},
                "target": {"minLength": 1},
            },
        },
    ]
}


class AttachmentBody(BaseModel):
    """What a policy is attached to; of kind `all`, target is empty."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_TARGETS)
    kind: TargetKind
    target: str = Field("", max_length=128)


class DefaultBody(BaseModel):
    """Which version counts."""

    model_config = ConfigDict(extra="forbid")
    version: int = Field(ge=1)


class PolicyView(BaseModel):
    """A policy; times are ISO 8601 UTC."""

    name: str
    description: str
    default_version: int
    versions: list[int]
    attached: list[AttachmentBody]
    version: int
    created: str
    updated: str


class OnePolicy(PolicyView):
    """A policy, and the document of the version that counts."""

    document: dict[str, Any]


class VersionView(BaseModel):
    """One version of a policy."""

    policy: str
    number: int
    default: bool
    created: str
    document: dict[str, Any]


class Answer(BaseModel):
    """A decision: `reason` is allowed, explicit_deny, not_allowed, or why a connect is refused."""

    decision: Literal["allow", "deny", "undecided"]
    reason: str
    policy: str | None
    version: int | None
    statement: str | None


class PastAnswer(Answer):
    """A decision that was made: for what, how often, when first and last."""

    device: str
    action: str
    resource: str
    detail: str
    first: str
    last: str
    times: int
    address: str
    client_id: str


class Simulation(BaseModel):
    """A version to try: as the policy is attached now, or with one attachment more."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(max_length=128)]
    document: str = Field(max_length=MAX_BYTES)
    hours: float = Field(24, gt=0, le=24 * 366)
    attach: AttachmentBody | None = None


class Different(BaseModel):
    """A decision that would be another."""

    device: str
    action: str
    resource: str
    times: int
    last: str
    was: Answer
    would_be: Answer


class Simulated(BaseModel):
    """What would change, and how many decisions were looked at."""

    decisions: int
    changes: list[Different]


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    _policy_routes(routes, core)
    _attachment_routes(routes, core)
    _decision_routes(routes, core)
    return routes


def _policy_routes(routes: APIRouter, core: Core) -> None:
    policies = core.policies

    @routes.get("/policies", summary="List policies")
    async def list_policies() -> list[PolicyView]:
        return [PolicyView(**_fields(found)) for found in policies.all()]

    @routes.get("/policies/{name}", summary="Show a policy")
    async def show_policy(name: Name, response: Response) -> OnePolicy:
        return with_version(response, _one(policies.get(name)))

    @routes.put("/policies/{name}", summary="Make a policy, or a new version of it")
    async def put_policy(name: Name, body: NewVersion, response: Response, if_match: IfMatch = None) -> OnePolicy:
        source, document = read_text(body.document)
        kept = await policies.put(
            name, source, document, body.description, make_default=body.default, expected=expected_version(if_match)
        )
        return with_version(response, _one(kept))

    @routes.delete("/policies/{name}", summary="Delete a policy that is attached to nothing")
    async def delete_policy(name: Name) -> Deleted:
        await policies.delete(name)
        return Deleted(name=name)

    @routes.post("/policies/{name}/default", summary="Let another version count")
    async def set_default(name: Name, body: DefaultBody, response: Response, if_match: IfMatch = None) -> OnePolicy:
        return with_version(response, _one(await policies.set_default(name, body.version, expected_version(if_match))))

    @routes.get("/policies/{name}/versions/{number}", summary="Show a version")
    async def show_version(name: Name, number: int) -> VersionView:
        found = policies.version(name, number)
        return VersionView(
            policy=name,
            number=number,
            default=number == policies.get(name).default_version,
            created=iso(found.created),
            document=dict(found.source),
        )

    @routes.delete("/policies/{name}/versions/{number}", summary="Delete a version that does not count")
    async def delete_version(name: Name, number: int, response: Response) -> OnePolicy:
        return with_version(response, _one(await policies.delete_version(name, number)))


def _attachment_routes(routes: APIRouter, core: Core) -> None:
    policies = core.policies

    @routes.post("/policies/{name}/attachments", summary="Attach a policy")
    async def attach(name: Name, body: AttachmentBody, response: Response) -> OnePolicy:
        return with_version(response, _one(await policies.attach(name, _target(body))))

    @routes.post("/policies/{name}/attachments/remove", summary="Detach a policy")
    async def detach(name: Name, body: AttachmentBody, response: Response) -> OnePolicy:
        return with_version(response, _one(await policies.detach(name, _target(body))))

    @routes.post("/policy-simulations", summary="What a policy would have decided of what was asked lately")
    async def run_simulation(body: Simulation) -> Simulated:
        _, document = read_text(body.document)
        target = _target(body.attach) if body.attach is not None else None
        known = policies.find(body.name)
        if target is not None:
            policies.check_target(target)
        elif known is None or not known.attached:
            raise ArgumentError(f"attach: policy {body.name} is attached to nothing: say what it would be attached to")
        number = max(known.versions) + 1 if known is not None else 1
        since = now_us() - int(body.hours * 3.6e9)
        wanted = Attached(body.name, number, document)
        changes, count = await simulate(policies, core.decisions, wanted, target, since)
        return Simulated(decisions=count, changes=[_different(change) for change in changes])


def _decision_routes(routes: APIRouter, core: Core) -> None:
    @routes.get("/explain", summary="What a device may do, and which statement says so")
    async def explain_one(
        device: str,
        publish: str | None = None,
        subscribe: str | None = None,
        receive: str | None = None,
        retain: str | None = None,
        connect: Annotated[str | None, Query(description="client id; empty: the device's name")] = None,
        source_address: Annotated[str | None, Query(description="else that of its connection")] = None,
        certificate: Annotated[str | None, Query(description="fingerprint; else that of its connection")] = None,
        tls: Annotated[str | None, Query(description="such as TLSv1.3; else that of its connection")] = None,
        listener: Annotated[str | None, Query(description="mqtts or wss; else that of its connection")] = None,
        time: Annotated[str | None, Query(description="ISO 8601, or -1h; else now")] = None,
    ) -> Answer:
        asked = {
            Action.PUBLISH: publish,
            Action.SUBSCRIBE: subscribe,
            Action.RECEIVE: receive,
            Action.RETAIN: retain,
            Action.CONNECT: connect,
        }
        action, resource = _asked(core, asked, device)
        core.registry.get(Kind.DEVICE, device)
        await core.policies.settled(device)
        given = {"source.address": source_address, _FINGERPRINT: certificate, "tls.version": tls, "listener": listener}
        at = parse_time(time, "time", now_us()) if time is not None else None
        rights = _rights(core, device, {key: value for key, value in given.items() if value is not None}, at)
        return _answer(explain(core.registry, rights, action, resource))

    @routes.get("/decisions", summary="What was decided lately, the latest first")
    async def list_decisions(
        device: str | None = None,
        since: Annotated[
            str | None, Query(description="ISO 8601, or -1h", json_schema_extra=looks_like(TIME_PATTERN))
        ] = None,
        limit: Annotated[int, Query(ge=1, le=_LIMIT)] = 100,
        *,
        all: Annotated[bool, Query(description="what was allowed, too")] = False,  # noqa: A002 - its name in the URL
    ) -> list[PastAnswer]:
        begin = parse_time(since, "since", now_us()) if since is not None else 0
        return [_past(kept) for kept in core.decisions.of(device, refused_only=not all, since=begin)[:limit]]


def _asked(core: Core, asked: dict[Action, str | None], device: str) -> tuple[Action, str]:
    found = [(action, resource) for action, resource in asked.items() if resource is not None]
    if len(found) != 1:
        raise ArgumentError("publish, subscribe, receive, retain, connect: exactly one of them is needed")
    action, resource = found[0]
    if action is Action.CONNECT:
        return action, resource or device
    if action is Action.SUBSCRIBE:
        resource = split_share(resource)[1]
    wrong = why_invalid(resource, core.settings.mqtt.max_levels)
    if wrong is None and action is not Action.SUBSCRIBE and ("+" in resource or "#" in resource):
        wrong = "a topic name has no + and no #"
    if wrong is not None:
        raise ArgumentError(f"{action}: {resource[:200]!r}: {wrong}")
    return action, resource


def _rights(core: Core, device: str, given: dict[str, str], at: int | None) -> Compiled:
    """By what is given; what is not, by the device's connection, if it has one; else it is unknown."""
    known, der = _connected(core, device)
    of_connection = known or Caller(device, device)
    fingerprint = given.get(_FINGERPRINT, of_connection.fingerprint).replace(":", "").lower()
    caller = Caller(
        device,
        device,
        given.get("source.address", of_connection.address),
        given.get("tls.version", of_connection.tls),
        given.get("listener", of_connection.listener),
        fingerprint,
    )
    unknown = set() if known is not None else CONNECTION.difference(given)
    if fingerprint != of_connection.fingerprint:
        der = None
    if der is None:
        unknown = unknown | _IN_CERTIFICATE
    return core.policies.hypothetical(caller, frozenset(unknown), der, at)


def _connected(core: Core, device: str) -> tuple[Caller | None, bytes | None]:
    """The connection of a device: what policies know of it, and its certificate."""
    connection = core.broker.engine.connection_of(owner_of_device(device))
    principal = connection.principal if connection is not None else None
    if connection is None or principal is None or not isinstance(principal.rights, Compiled):
        return None, None
    return principal.rights.caller, connection.peer.certificate


def _target(body: AttachmentBody) -> Target:
    if (body.kind is TargetKind.ALL) is bool(body.target):
        raise ArgumentError(f"target: {'none is needed' if body.target else 'a name is needed'} for kind {body.kind}")
    return Target(body.kind, body.target)


def _fields(found: Policy) -> dict[str, Any]:
    return {
        "name": found.name,
        "description": found.description,
        "default_version": found.default_version,
        "versions": sorted(found.versions),
        "attached": [AttachmentBody(kind=one.kind, target=one.name) for one in sorted(found.attached)],
        "version": found.version,
        "created": iso(found.created),
        "updated": iso(found.updated),
    }


def _one(found: Policy) -> OnePolicy:
    return OnePolicy(**_fields(found), document=dict(found.versions[found.default_version].source))


def _answer(found: Decision) -> Answer:
    return Answer(**_answer_fields(found))


def _answer_fields(found: Decision) -> dict[str, Any]:
    return {
        "decision": UNDECIDED if found.reason == UNDECIDED else "allow" if found.allowed else "deny",
        "reason": found.reason,
        "policy": found.policy,
        "version": found.version,
        "statement": found.statement,
    }


def _past(kept: Kept) -> PastAnswer:
    return PastAnswer(
        **_answer_fields(kept.decision),
        device=kept.caller.device,
        action=kept.action,
        resource=kept.resource,
        detail=kept.detail,
        first=iso(kept.first),
        last=iso(kept.last),
        times=kept.times,
        address=kept.caller.address,
        client_id=kept.caller.client_id,
    )


def _different(change: Change) -> Different:
    kept = change.kept
    return Different(
        device=kept.caller.device,
        action=kept.action,
        resource=kept.resource,
        times=kept.times,
        last=iso(kept.last),
        was=_answer(kept.decision),
        would_be=_answer(change.then),
    )
