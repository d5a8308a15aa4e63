"""What devices ask for, and what they are told: JSON, signing requests, what a certificate says. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from fleet.authority.requests import read_request, signing_request
from fleet.identity import fingerprint_of, key_of
from fleet.provisioning.model import Provisioned, ProvisioningError

_REQUEST_BYTES = 64 * 1024

_SUBJECT = {
    "cn": NameOID.COMMON_NAME,
    "o": NameOID.ORGANIZATION_NAME,
    "ou": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "c": NameOID.COUNTRY_NAME,
    "l": NameOID.LOCALITY_NAME,
    "st": NameOID.STATE_OR_PROVINCE_NAME,
    "serial": NameOID.SERIAL_NUMBER,
}


def requested(asked: Mapping[str, Any], name: str) -> tuple[bytes, bytes | None, x509.CertificateSigningRequest]:
    """What a claim asks for: (CSR, key where it is made here, the request).

    Raises ProvisioningError, InvalidCertificateError.
    """
    for field in asked:
        if field not in {"csr", "parameters"}:
            raise ProvisioningError("bad_request", f"unknown field {field[:80]!r}; known are csr, parameters")
    csr = asked.get("csr")
    if csr is None:
        key, made = signing_request(name)
        return made, key, read_request(made)
    return str(csr).encode(), None, read_csr(csr)


def renewal(asked: Mapping[str, Any]) -> x509.CertificateSigningRequest:
    """What a device asks for that renews its certificate. Raises ProvisioningError, InvalidCertificateError."""
    for field in asked:
        if field != "csr":
            raise ProvisioningError("bad_request", f"unknown field {field[:80]!r}; known is csr")
    return read_csr(asked.get("csr"))


def read_csr(csr: Any) -> x509.CertificateSigningRequest:
    """Read a signing request. Raises ProvisioningError, InvalidCertificateError."""
    if not isinstance(csr, str):
        raise ProvisioningError("bad_request", "csr: a PEM text is wanted")
    if len(csr) > _REQUEST_BYTES:
        raise ProvisioningError("csr", f"csr: {len(csr)} bytes, the limit is {_REQUEST_BYTES}")
    return read_request(csr.encode())


def parameters_of(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parameters that are given. Raises ProvisioningError."""
    found = asked.get("parameters", {})
    if not isinstance(found, Mapping):
        raise ProvisioningError("bad_request", "parameters: an object is wanted")
    return found


def values_of(found: x509.Certificate | x509.CertificateSigningRequest) -> dict[str, str]:
    """What templates may ask for of a certificate, or of a request for one."""
    values = {"certificate.key": key_of(found.public_key())}
    for part, oid in _SUBJECT.items():
        attributes = found.subject.get_attributes_for_oid(oid)
        if len(attributes) == 1:
            values[f"certificate.subject.{part}"] = str(attributes[0].value)
    if isinstance(found, x509.Certificate):
        issuer = found.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        if len(issuer) == 1:
            values["certificate.issuer.cn"] = str(issuer[0].value)
        values["certificate.serial"] = f"{found.serial_number:x}"
        values["certificate.fingerprint"] = fingerprint_of(found)
    return values


def answer_of(found: Provisioned) -> dict[str, str]:
    """What a device is told."""
    answer = {
        "device": found.device,
        "certificate": found.certificate.decode(),
        "ca": found.ca.decode(),
        "status": found.status,
    }
    return {**answer, "key": found.key.decode()} if found.key is not None else answer


def problem_of(error: ProvisioningError) -> dict[str, str]:
    """What a device is told that does not get what it asked for."""
    return {"code": error.code, "message": str(error)}


def read_asked(payload: bytes) -> dict[str, Any]:
    """Read what a device asks for, JSON. Raises ProvisioningError."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProvisioningError("bad_request", f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ProvisioningError("bad_request", "an object is wanted")
    return found
