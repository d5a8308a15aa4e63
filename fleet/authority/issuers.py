"""Whoever makes certificates of clients: the built-in authority, or a program of the operator's that is asked."""

import asyncio
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleet.authority.authority import Authority
from fleet.certificates import from_pem
from fleet.errors import InvalidCertificateError
from fleet.hook import ask
from fleet.identity import Identity, IdentityError, Kind
from ingester.clock import Clock, moment

JudgeChain = Callable[[Sequence[x509.Certificate]], Identity]


class BuiltInIssuer:
    """The authority of the state folder, in a thread. `sure` is the time without steps of the clock that may be wrong:
    certificates are valid from then on, and so as well when the clock is set right.
    """

    def __init__(self, authority: Authority, sure: Clock | None = None) -> None:
        self._authority = authority
        self._sure = sure

    @property
    def ca_pem(self) -> bytes:
        """What clients trust the server by."""
        return self._authority.ca_pem

    async def issue(self, kind: Kind, name: str, request: x509.CertificateSigningRequest) -> Sequence[x509.Certificate]:
        """A certificate for a name with the request's key, and those above it."""
        since = None if self._sure is None else moment(self._sure())
        made = await asyncio.to_thread(self._authority.issue, kind, name, request, since)
        return [made.certificate, *self._authority.chain]


class HookIssuer:
    """Asks `hook` with `{"kind", "name", "csr", "days"}` (CSR in PEM); its answer has `certificate`: PEM, with those
    above it behind it. Claims are made by the built-in authority all the same. `judge` says who a client with these
    certificates would be, and raises IdentityError when nobody.
    """

    def __init__(self, hook: str, built_in: Authority, judge: JudgeChain, days: int, sure: Clock | None = None) -> None:
        self._hook = hook
        self._built_in = BuiltInIssuer(built_in, sure)
        self._judge = judge
        self._days = days

    @property
    def ca_pem(self) -> bytes:
        """What clients trust the server by."""
        return self._built_in.ca_pem

    async def issue(self, kind: Kind, name: str, request: x509.CertificateSigningRequest) -> Sequence[x509.Certificate]:
        """Raises HookError, and InvalidCertificateError for an answer that is not this device's certificate."""
        if kind is Kind.CLAIM:
            return await self._built_in.issue(kind, name, request)
        question = {
            "kind": kind.value,
            "name": name,
            "csr": request.public_bytes(Encoding.PEM).decode(),
            "days": self._days,
        }
        answer = await ask(self._hook, question)
        try:
            chain = from_pem(str(answer.get("certificate", "")).encode())
            found = await asyncio.to_thread(self._judge, chain)
        except (ValueError, IdentityError) as error:
            raise InvalidCertificateError(f"{self._hook}: its certificate can't be used: {error}") from error
        if (found.kind, found.name) != (kind, name):
            raise InvalidCertificateError(f"{self._hook}: its certificate is of {found.kind} {found.name}, not {name}")
        if _key(chain[0]) != _key(request):
            raise InvalidCertificateError(f"{self._hook}: its certificate has another key than was asked for")
        return chain


def _key(found: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    return found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
