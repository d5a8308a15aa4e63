"""What the audit log says of a thing before and after something was done to it: nothing secret, nothing that changes
by itself.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from fleet.errors import NotFoundError
from fleet.identity import Kind
from fleet.lifecycle.model import source_of
from fleet.quota.service import of_type
from fleet.registry.details import NOTHING
from fleetgate.core import Core

Snapshot = Callable[[str], Awaitable[dict[str, Any]]]
"""What is there of a name; raises NotFoundError."""

_BY_ITSELF = frozenset({"created", "updated", "version"})


def snapshots(core: Core) -> Mapping[str, Snapshot]:  # noqa: C901 - one function a kind
    """By kind, for those of which there is something to say."""

    def values(get: Callable[[str], Any]) -> Snapshot:
        async def of(name: str) -> dict[str, Any]:
            return {key: value for key, value in asdict(get(name)).items() if key not in _BY_ITSELF}

        return of

    async def member(kind: Kind, name: str) -> dict[str, Any]:
        found = core.registry.get(kind, name)
        certificates = {entry.fingerprint: entry.status.value for entry in core.registry.certificates(found)}
        return {"state": found.state.value, "certificates": certificates}

    async def device(name: str) -> dict[str, Any]:
        of = await member(Kind.DEVICE, name)
        details = (await core.inventory.details([name])).get(name, NOTHING)
        return {**of, **asdict(details)}

    async def application(name: str) -> dict[str, Any]:
        found = core.registry.get(Kind.APPLICATION, name)
        filters = {"publish": list(found.publish), "subscribe": list(found.subscribe)}
        return {**await member(Kind.APPLICATION, name), **filters}

    async def certificate(fingerprint: str) -> dict[str, Any]:
        entry = core.registry.certificate(fingerprint)
        return {"status": entry.status.value, "kind": entry.kind.value, "name": entry.name}

    async def quota(device: str) -> dict[str, Any]:
        found = core.quotas.all().get(device)
        return asdict(found) if found is not None else {}

    async def device_type(name: str) -> dict[str, Any]:
        of = await values(core.types.get)(name)
        return {**of, "quota": await quota(of_type(name))}

    async def policy(name: str) -> dict[str, Any]:
        found = core.policies.get(name)
        return {
            "default_version": found.default_version,
            "document": dict(found.versions[found.default_version].source),
            "description": found.description,
            "attached": [f"{target.kind}:{target.name}" for target in sorted(found.attached)],
        }

    async def template(name: str) -> dict[str, Any]:
        source, _template, version = core.provisioning.templates.get(name)
        return {"document": source, "version": version}

    async def authority(name: str) -> dict[str, Any]:
        found = core.provisioning.authorities.get(name)
        subject = found.certificate.subject.rfc4514_string()
        return {"subject": subject, "mode": found.mode.value, "template": found.template}

    async def stream(name: str) -> dict[str, Any]:
        return {"document": dict(core.streams.get(name).definition.source)}

    async def dataset(name: str) -> dict[str, Any]:
        return core.datasets.get(name).definition.model_dump(mode="json")

    async def operator(name: str) -> dict[str, Any]:
        found = asdict(core.operators.get(name))
        found["password"] = "set" if found["password"] else "none"
        tokens = [token.id for token in core.operators.tokens(name)]
        return {key: value for key, value in {**found, "tokens": tokens}.items() if key not in _BY_ITSELF}

    async def rule(name: str) -> dict[str, Any]:
        found = core.lifecycle.get(name)
        return {**source_of(found.rule), "tried": found.tried, "enabled": found.enabled}

    return {
        "rule": rule,
        "device": device,
        "application": application,
        "certificate": certificate,
        "quota": quota,
        "type": device_type,
        "group": values(core.groups.get),
        "policy": policy,
        "template": template,
        "claim": values(core.provisioning.claims.get),
        "authority": authority,
        "stream": stream,
        "dataset": dataset,
        "operator": operator,
    }


async def taken(snapshot: Snapshot, name: str) -> dict[str, Any]:
    """What is there; nothing, where nothing of that name is."""
    try:
        return await snapshot(name)
    except NotFoundError:
        return {}
