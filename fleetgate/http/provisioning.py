"""Provisioning: what would happen to a certificate."""

from datetime import UTC, datetime

from cryptography import x509
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from fleet.errors import InvalidCertificateError
from fleet.provisioning.check import Check
from fleetgate.core import Core

_PEM_BYTES = 256 * 1024


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


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter(prefix="/provisioning")

    @routes.post("/check", summary="Say, rule by rule, what would happen to a certificate")
    async def check(request: CheckRequest) -> VerdictView:
        try:
            chain = x509.load_pem_x509_certificates(request.certificate.encode())
        except ValueError as error:
            raise InvalidCertificateError(f"not a readable PEM certificate: {error}") from error
        found = Check(chain, core.tls.authorities(), core.rules, core.registry, core.tls.check, datetime.now(UTC)).run()
        return VerdictView(
            decision="deny" if found.reason else "allow",
            reason=found.reason or None,
            steps=[StepView(rule=step.rule, outcome=step.outcome, detail=step.detail) for step in found.steps],
        )

    return routes
