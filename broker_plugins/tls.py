"""TLS of the device listeners: who may complete a handshake, and why one fails."""

import ssl
from collections.abc import Sequence
from pathlib import Path

# OpenSSL's X509_V_ERR_* numbers, from its x509_vfy.h
_BY_VERIFY_CODE = {
    2: "unknown_ca",
    7: "unknown_ca",
    9: "not_yet_valid",
    10: "expired",
    18: "unknown_ca",
    19: "unknown_ca",
    20: "unknown_ca",
    21: "unknown_ca",
    24: "unknown_ca",
    26: "key_usage",
}


def server_context(certificate: Path, key: Path, client_cas: Sequence[Path]) -> ssl.SSLContext:
    """Context that completes a handshake only with a client certificate signed by one of `client_cas`; TLS 1.2 up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    for client_ca in client_cas:
        context.load_verify_locations(client_ca)
    context.set_alpn_protocols(["mqtt"])
    return context


def why_failed(error: OSError) -> tuple[str, str]:
    """(reason, detail) of a handshake that failed; the reason is one of connections.HANDSHAKE_REASONS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, "tls"), error.verify_message
    if isinstance(error, ssl.SSLError):
        if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return "no_certificate", "the client sent no certificate"
        return "tls", (error.reason or str(error)).lower().replace("_", " ")
    return "tls", str(error) or type(error).__name__
