"""OCSP, asked by openssl."""

import subprocess

from tests.programs import need
from tests.system.gate import Gate


def test_openssl_asks(tmp_path):
    """Good, and revoked a moment later; a request in the URL, too."""
    need("openssl")
    with Gate(tmp_path) as gate:
        gate.add("dev")
        pki = gate.state / "pki"

        def ask() -> str:
            done = subprocess.run(
                [
                    *("openssl", "ocsp", "-url", f"http://{gate.addresses['http']}/pki/ocsp"),
                    *("-issuer", str(pki / "issuing.pem"), "-cert", str(gate.out / "dev.pem")),
                    *("-CAfile", str(pki / "ca.pem")),
                ],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            assert "Response verify OK" in done.stderr, done.stderr
            return done.stdout

        assert "dev.pem: good" in ask()
        gate.run("device", "revoke", "dev")
        assert "dev.pem: revoked" in ask()
