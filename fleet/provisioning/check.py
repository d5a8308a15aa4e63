"""What would happen to a certificate at a connect, rule by rule, and why. Pure but for what it asks.

It asks the parts that decide at a connect, in their order; only the handshake, which needs the private key, is redone
here: a chain of signatures up to a certificate authority that counts.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fleet.authority.chain import constraints_of, is_signed_by
from fleet.identity import Identity, IdentityError, Rules, identify
from fleet.provisioning.model import IssuingAuthority, Mode, ProvisioningError
from fleet.registry import Refused, Registry

_CHAIN = 8


Preview = Callable[[x509.Certificate, Identity], IssuingAuthority | None]
"""Who would register the device of a certificate that is not known. Raises ProvisioningError."""


class Outcome(StrEnum):
    """What a rule said."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """One rule, and what it said of the certificate. `reason` is that of a refused connect, empty otherwise."""

    rule: str
    outcome: Outcome
    detail: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All rules in their order; those after one that failed are skipped."""

    steps: tuple[Step, ...]

    @property
    def reason(self) -> str:
        """Why it is refused; empty when it is let in."""
        return next((step.reason for step in self.steps if step.outcome is Outcome.FAILED), "")


class _Failed(Exception):  # noqa: N818 - the answer to a question, not a fault
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Check:
    """One certificate, `chain[0]`, with what its file has beside it.

    `revoked` raises IdentityError for a certificate that its issuer revoked.
    """

    def __init__(
        self,
        chain: Sequence[x509.Certificate],
        authorities: Sequence[x509.Certificate],
        rules: Rules,
        registry: Registry,
        revoked: Callable[[bytes, datetime], None],
        now: datetime,
        preview: Preview | None = None,
    ) -> None:
        self._chain = chain
        self._der = chain[0].public_bytes(Encoding.DER)
        self._authorities = authorities
        self._rules = rules
        self._registry = registry
        self._revoked = revoked
        self._now = now
        self._preview = preview

    def run(self) -> Verdict:
        """Ask all rules."""
        steps: list[Step] = []
        failed = False
        for rule, ask in (
            ("issuer", self._issuer),
            ("identity", self._identity),
            ("revocation list", self._revocation_list),
            ("registered", self._registered),
        ):
            if failed:
                steps.append(Step(rule, Outcome.SKIPPED, ""))
                continue
            try:
                steps.append(Step(rule, Outcome.PASSED, ask()))
            except (_Failed, IdentityError, Refused) as refusal:
                steps.append(Step(rule, Outcome.FAILED, str(refusal), refusal.reason))
                failed = True
        return Verdict(tuple(steps))

    def _issuer(self) -> str:
        at = self._chain[0]
        for _ in range(_CHAIN):
            if (authority := _issuer_of(at, self._authorities)) is not None:
                return f"signed by {authority.subject.rfc4514_string()}, which counts here"
            if (above := _issuer_of(at, self._chain[1:])) is None:
                break
            at = above
        raise _Failed("unknown_ca", f"no authority that counts here signed it; its issuer is {_issuer_name(at)}")

    def _identity(self) -> str:
        found = self._identify()
        return f"it is {found.kind} {found.name}, by {self._rules.source}"

    def _revocation_list(self) -> str:
        self._revoked(self._der, self._now)
        return "no list has it"

    def _registered(self) -> str:
        identity = self._identify()
        try:
            member = self._registry.admit(identity)
        except Refused as refused:
            if refused.reason != "unknown_device" or self._preview is None:
                raise
            try:
                authority = self._preview(self._chain[0], identity)
            except ProvisioningError as error:
                raise _Failed("provisioning", str(error)) from error
            if authority is None:
                raise
            by = f"by template {authority.template} of authority {authority.name}"
            if authority.mode is Mode.ACTIVE:
                return f"it would be registered at its first connect, {by}"
            raise _Failed("pending", f"it would be registered {by}, and wait for somebody to activate it") from refused
        return f"registered and active for {member.kind} {member.name}, which is {member.state}"

    def _identify(self) -> Identity:
        return identify(self._der, self._rules, self._now)


def _issuer_of(certificate: x509.Certificate, candidates: Iterable[x509.Certificate]) -> x509.Certificate | None:
    authorities = (one for one in candidates if (basic := constraints_of(one)) is not None and basic.ca)
    return next((one for one in authorities if is_signed_by(certificate, one)), None)


def _issuer_name(certificate: x509.Certificate) -> str:
    return certificate.issuer.rfc4514_string() or "(without a name)"
