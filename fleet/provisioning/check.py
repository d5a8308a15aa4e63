"""What would happen to a certificate at a connect, rule by rule, and why. Pure but for what it asks.

It asks the parts that decide at a connect, in their order; the handshake is rehearsed.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509

from fleet.certificates import from_der
from fleet.identity import Identity, IdentityError, identify
from fleet.judge import Judge, Path, ders
from fleet.provisioning.model import IssuingAuthority, Mode, ProvisioningError
from fleet.registry import Refused, Registry

_UNKNOWN = frozenset({"unknown_device", "unknown_certificate"})

Preview = Callable[[x509.Certificate, Identity], Awaitable[IssuingAuthority | None]]
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
    """One certificate, `chain[0]`, with what its file has beside it."""

    def __init__(
        self, chain: Sequence[x509.Certificate], judge: Judge, registry: Registry, preview: Preview | None = None
    ) -> None:
        self._chain = chain
        self._path: Path = ders(chain)
        self._judge = judge
        self._registry = registry
        self._preview = preview
        self._now = judge.now()

    async def run(self) -> Verdict:
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
                steps.append(Step(rule, Outcome.PASSED, await ask()))
            except (_Failed, IdentityError, Refused) as refusal:
                steps.append(Step(rule, Outcome.FAILED, str(refusal), refusal.reason))
                failed = True
        return Verdict(tuple(steps))

    async def _issuer(self) -> str:
        self._path = self._judge.verify(self._path)
        if len(self._path) == 1:
            return "it is an authority in effect itself"
        authority = from_der(self._path[-1])
        return f"signed by {authority.subject.rfc4514_string() or '(without a name)'}, an authority in effect"

    async def _identity(self) -> str:
        found = self._identify()
        return f"it is {found.kind} {found.name}, by {self._judge.rules_for(self._path[0]).source}"

    async def _revocation_list(self) -> str:
        self._judge.revoked(self._path, self._now)
        return "no list has it"

    async def _registered(self) -> str:
        identity = self._identify()
        try:
            member = self._registry.admit(identity)
        except Refused as refused:
            if refused.reason not in _UNKNOWN or self._preview is None:
                raise
            try:
                authority = await self._preview(self._chain[0], identity)
            except ProvisioningError as error:
                if error.code == "name_taken":
                    raise refused from error
                raise _Failed("provisioning", str(error)) from error
            if authority is None:
                raise
            by = f"by template {authority.template} of authority {authority.name}"
            if authority.mode is Mode.ACTIVE:
                return f"it would be registered at its first connect, {by}"
            raise _Failed("pending", f"it would be registered {by}, and wait for somebody to activate it") from refused
        return f"registered and active for {member.kind} {member.name}, which is {member.state}"

    def _identify(self) -> Identity:
        return identify(self._path[0], self._judge.rules_for(self._path[0]), self._now)
