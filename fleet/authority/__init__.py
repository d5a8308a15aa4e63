"""The local certificate authority: makes the CA, the server's certificate, and certificates for devices."""

from fleet.authority.authority import Authority, Issued
from fleet.authority.requests import read_certificate, read_certificates, read_request, signing_request

__all__ = ["Authority", "Issued", "read_certificate", "read_certificates", "read_request", "signing_request"]
