"""Provisioning: what would happen to a certificate, what waits for somebody, and what came of requests."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from fleet.authority import read_certificates
from fleet.identity import Kind
from fleet.provisioning.check import Check
from fleet.provisioning.notes import read_notes
from fleet.registry import CertificateStatus
from fleetgate.core import Core
from fleetgate.times import iso

_PEM_BYTES = 256 * 1024
_LIMIT = 1000


class CheckRequest(BaseModel):
    """A certificate, and those above it where they are not known here."""

    model_config = ConfigDict(extra="forbid")
    certificate: str = Field(max_length=_PEM_BYTES, description="PEM, the certificate first")


class StepView(BaseModel):
    """One rule, and what it said: passed, failed or skipped."""

    rule: str
    outcome: str
    detail: str


class VerdictView(BaseModel):
    """Whether it would be let in; `reason` is that of the refused connect, null when there is none."""

    decision: str
    reason: str | None
    steps: list[StepView]


class NoteView(BaseModel):
    """What came of one request; `how` is claim, just_in_time or renewal, `by` the claim, authority or device."""

    at: str
    how: str
    by: str
    device: str
    outcome: str
    code: str
    detail: str
    address: str


class PendingView(BaseModel):
    """A certificate that waits for somebody to activate it."""

    device: str
    fingerprint: str
    created: str
    not_after: str


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()

    @routes.post("/provisioning/check", summary="Say, rule by rule, what would happen to a certificate")
    async def check(request: CheckRequest) -> VerdictView:
        chain = read_certificates(request.certificate.encode())
        found = await Check(chain, core.judge, core.registry, core.provisioning.preview).run()
        return VerdictView(
            decision="deny" if found.reason else "allow",
            reason=found.reason or None,
            steps=[StepView(rule=step.rule, outcome=step.outcome, detail=step.detail) for step in found.steps],
        )

    @routes.get("/provisionings", summary="What came of requests for identities, the latest first")
    async def list_notes(
        how: str | None = None, by: str | None = None, limit: Annotated[int, Query(ge=1, le=_LIMIT)] = 100
    ) -> list[NoteView]:
        found = await read_notes(core.registry.database, how, by, limit)
        return [NoteView(**{**asdict(one), "at": iso(one.at)}) for one in found]

    @routes.get("/pending-certificates", summary="Certificates that wait for somebody to activate them")
    async def list_pending() -> list[PendingView]:
        _members, certificates = core.registry.all()
        return [
            PendingView(
                device=one.name, fingerprint=one.fingerprint, created=iso(one.created), not_after=iso(one.not_after)
            )
            for one in sorted(certificates, key=lambda one: one.created)
            if one.status is CertificateStatus.PENDING and one.kind is Kind.DEVICE
        ]

    return routes
