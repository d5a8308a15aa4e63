"""Whoever makes certificates of clients: the built-in authority, or a program of the operator's that is asked."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleet.authority.authority import Authority
from fleet.errors import InvalidCertificateError
from fleet.hook import ask
from fleet.identity import IdentityError, Kind, Rules, identify


class BuiltInIssuer:
    """The authority of the state folder, in a thread."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    @property
    def ca_pem(self) -> bytes:
        """What clients trust the server by."""
        return self._authority.ca_pem

    async def issue(self, kind: Kind, name: str, request: x509.CertificateSigningRequest) -> Sequence[x509.Certificate]:
        """A certificate for a name with the request's key, and those above it."""
        made = await asyncio.to_thread(self._authority.issue, kind, name, request)
        return [made.certificate, *self._authority.chain]


class HookIssuer:
    """Asks `hook` with `{"kind", "name", "csr", "days"}` (CSR in PEM); its answer has `certificate`: PEM, with those
    above it behind it. Claims are made by the built-in authority all the same.
    """

    def __init__(self, hook: str, built_in: Authority, rules: Rules, days: int) -> None:
        self._hook = hook
        self._built_in = BuiltInIssuer(built_in)
        self._rules = rules
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
            chain = x509.load_pem_x509_certificates(str(answer.get("certificate", "")).encode())
            found = identify(chain[0].public_bytes(Encoding.DER), self._rules, datetime.now(UTC))
        except (ValueError, IdentityError) as error:
            raise InvalidCertificateError(f"{self._hook}: its certificate can't be used: {error}") from error
        if (found.kind, found.name) != (kind, name):
            raise InvalidCertificateError(f"{self._hook}: its certificate is of {found.kind} {found.name}, not {name}")
        if _key(chain[0]) != _key(request):
            raise InvalidCertificateError(f"{self._hook}: its certificate has another key than was asked for")
        return chain


def _key(found: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    return found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
