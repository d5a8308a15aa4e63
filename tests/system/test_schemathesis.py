"""The API against its own description: schemathesis asks what it allows and what it does not, and finds nothing."""

import re
import subprocess
import sys

import pytest

from tests.system.gate import ROOT, Gate

EXAMPLES = "5"
"""For each operation, in the short form."""


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    with Gate(tmp_path_factory.mktemp("schemathesis")) as made:
        made.add("dev")
        yield made


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(gate: Gate, tmp_path, request):
    """No error of ours, no answer that is not described, nothing taken that may not be, nothing in without a token."""
    token = (gate.state / "admin.token").read_text().strip()
    examples = "100" if request.config.getoption("--long") else EXAMPLES
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "config" / "schemathesis.toml")),
            *("run", f"http://{gate.addresses['http']}/api/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {token}", "--max-examples", examples),
            *("--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--max-failures", "100"),
            *("--request-timeout", "30", "--no-color", "--seed", "7"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert re.search(r" (\d{4,}) generated, \1 passed", done.stdout), done.stdout[-2000:]
    assert gate.get("/healthz", token=False) == "ok\n"
    assert not [line for line in gate.log() if "exception" in line]
    assert gate.json("audit", "verify")["ok"] is True
