"""What the variables and keys of policies stand for, for one device and its connection. Pure."""

from collections.abc import Callable, Iterable, Mapping

from cryptography import x509
from cryptography.x509.oid import NameOID

from fleet.certificates import from_der
from fleet.policy.compiled import Caller
from fleet.policy.pattern import ATTRIBUTE
from fleet.policy.subjects import Subject
from fleet.registry.details import Value


def values_of(
    needs: Iterable[str], caller: Caller, subject: Subject, certificate: bytes | None, moment: int
) -> dict[str, Value]:
    """What is needed, of what there is. The certificate is DER, read where something of it is asked for."""
    found: dict[str, Value] = {}
    read: x509.Certificate | None = None
    for name in needs:
        if name.startswith(ATTRIBUTE):
            value: Value | None = subject.attributes.get(name.removeprefix(ATTRIBUTE))
        elif name in _OF_CERTIFICATE:
            if read is None and certificate is not None:
                read = from_der(certificate)
            value = _OF_CERTIFICATE[name](read) if read is not None else None
        elif name == "time":
            value = moment
        else:
            value = _OF_CALLER[name](caller, subject)
        if value is not None and value != "":
            found[name] = value
    return found


def _common_name(name: x509.Name) -> str | None:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else None


_OF_CERTIFICATE: Mapping[str, Callable[[x509.Certificate], str | None]] = {
    "certificate.subject.cn": lambda certificate: _common_name(certificate.subject),
    "certificate.issuer.cn": lambda certificate: _common_name(certificate.issuer),
    "certificate.serial": lambda certificate: f"{certificate.serial_number:x}",
}
_OF_CALLER: Mapping[str, Callable[[Caller, Subject], str]] = {
    "device.id": lambda caller, _subject: caller.device,
    "device.type": lambda _caller, subject: subject.type,
    "device.site": lambda _caller, subject: subject.site,
    "client.id": lambda caller, _subject: caller.client_id,
    "source.address": lambda caller, _subject: caller.address,
    "tls.version": lambda caller, _subject: caller.tls,
    "listener": lambda caller, _subject: caller.listener,
    "certificate.fingerprint": lambda caller, _subject: caller.fingerprint,
}
