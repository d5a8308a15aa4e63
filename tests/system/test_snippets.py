"""Programs that `device add --snippets` writes: those in Python run, those in C are C."""

import re
import subprocess
import sys

import pytest

from fleetgate.snippets import SNIPPETS
from tests.programs import need
from tests.system.gate import Gate


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    with Gate(tmp_path_factory.mktemp("snippets")) as made:
        done = made.run("device", "add", "dev-1", "--out", str(made.out), "--snippets")
        assert "dev-1.zephyr.c" in done.stderr
        yield made


@pytest.mark.parametrize("client", ["paho", "aiomqtt"])
def test_programs_in_python_publish(gate: Gate, client: str):
    """And what they publish is stored."""
    before = gate.total("fleetgate_messages_stored_total")
    done = subprocess.run(
        [sys.executable, str(gate.out / f"dev-1.{SNIPPETS[client][0]}")], capture_output=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    gate.wait_for("fleetgate_messages_stored_total", before + 1)


@pytest.mark.parametrize("client", ["esp-idf", "arduino", "zephyr"])
def test_programs_in_c_have_what_belongs_in_them(gate: Gate, client: str, tmp_path):
    """The certificates, as texts that a compiler takes and gives back; nobody else may read them."""
    file = gate.out / f"dev-1.{SNIPPETS[client][0]}"
    assert file.stat().st_mode & 0o077 == 0
    text = file.read_text()
    host, port = gate.mqtt
    assert host in text
    assert str(port) in text
    assert "devices/dev-1/telemetry" in text
    need("gcc")
    constants = "".join(re.findall(r'static const char [A-Z]+\[\] =\n(?: +".*"\n?)+;?\n', text))
    assert constants.count("static const char") == 3
    main = 'int main(void) { printf("%s%s%s", CA, CERTIFICATE, KEY); return 0; }'
    (tmp_path / "x.c").write_text(f"#include <stdio.h>\n{constants}\n{main}\n")
    compiled = ["gcc", "-Wall", "-Werror", "-o", str(tmp_path / "x"), str(tmp_path / "x.c")]
    subprocess.run(compiled, check=True, timeout=60)
    said = subprocess.run([str(tmp_path / "x")], capture_output=True, text=True, check=True, timeout=10).stdout
    assert said == "".join((gate.out / name).read_text() for name in ("ca.pem", "dev-1.pem", "dev-1-key.pem"))


def test_snippets_need_the_key(gate: Gate):
    """Which nobody has but who made it."""
    done = gate.run("device", "add", "dev-2", "--csr", "x", "--snippets", check=False)
    assert (done.returncode, "--snippets" in done.stderr) == (1, True)
