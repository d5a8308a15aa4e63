"""Why: which statement decides what a device asks for, and what another policy would have decided lately."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from fleet.identity import Kind
from fleet.policy.compiled import ALLOWED, EXPLICIT_DENY, NOT_ALLOWED, Attached, Compiled, Decision, UndecidedError
from fleet.policy.decisions import Decisions, Kept
from fleet.policy.document import Action
from fleet.policy.model import Target
from fleet.policy.pattern import CONNECTION
from fleet.policy.service import Policies
from fleet.policy.subjects import NOBODY, Subject
from fleet.registry.model import CertificateStatus, State
from fleet.registry.service import Registry
from fleet.topics import is_servers

UNDECIDED = "undecided"

_BY_POLICY = frozenset({ALLOWED, EXPLICIT_DENY, NOT_ALLOWED})
_OF_CERTIFICATE = frozenset(name for name in CONNECTION if name.startswith("certificate.")) - {
    "certificate.fingerprint"
}
_SLICE = 100
_NO_CERTIFICATE = "no_certificate"


def explain(registry: Registry, rights: Compiled, action: Action, resource: str) -> Decision:
    """What the answer to a device would be, and why. A device that is not let in may do nothing.

    Raises UndecidedError, NotFoundError for a device that is not there.
    """
    if (reason := _not_let_in(registry, rights.caller.device, rights.caller.fingerprint)) is not None:
        return Decision(False, reason)
    if action in {Action.PUBLISH, Action.RETAIN} and is_servers(resource):
        return Decision(False, NOT_ALLOWED)
    if action is Action.RETAIN:
        published = rights.explain(Action.PUBLISH, resource)
        if not published.allowed:
            return published
    return rights.explain(action, resource)


def _not_let_in(registry: Registry, device: str, fingerprint: str) -> str | None:
    """The reason of the registry; that of its last certificate where it is not said which one counts."""
    member = registry.get(Kind.DEVICE, device)
    if member.state is State.RETIRED:
        return "retired"
    if member.state is State.SUSPENDED:
        return "disabled"
    found = [entry for entry in registry.certificates(member) if fingerprint in {"", entry.fingerprint}]
    if not found:
        return _NO_CERTIFICATE
    active = [entry for entry in found if entry.status is CertificateStatus.ACTIVE]
    return None if active else found[-1].status.value


@dataclass(frozen=True, slots=True)
class Change:
    """A decision that was made, and what it would be (reason UNDECIDED: that depends on what was not kept)."""

    kept: Kept
    then: Decision


async def simulate(
    policies: Policies, decisions: Decisions, wanted: Attached, target: Target | None, since: int
) -> tuple[list[Change], int]:
    """Decide again what was decided since then, with another version of a policy.

    Returns what would be different, the latest first, and how many decisions were looked at.
    """
    found = [kept for kept in decisions.of(None, refused_only=False, since=since) if kept.decision.reason in _BY_POLICY]
    devices = sorted({kept.caller.device for kept in found})
    subjects = await policies.subjects_for(devices, wanted.document, target)
    changes = []
    for number, kept in enumerate(found):
        then = _again(policies, kept, subjects, wanted, target)
        if (then.allowed, then.reason == UNDECIDED) != (kept.decision.allowed, False):
            changes.append(Change(kept, then))
        if number % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
    return changes, len(found)


def _again(
    policies: Policies, kept: Kept, subjects: Mapping[str, Subject], wanted: Attached, target: Target | None
) -> Decision:
    subject = subjects.get(kept.caller.device, NOBODY)
    rights = policies.with_instead(kept.caller, subject, _OF_CERTIFICATE, kept.last, wanted, target)
    try:
        return rights.explain(Action(kept.action), kept.resource)
    except UndecidedError:
        return Decision(False, UNDECIDED)
