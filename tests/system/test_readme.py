"""The README's examples, run from the top as a newcomer pastes them: commands, files and Python."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fleet.pki import certificate, key, name, pem
from tests.system.commands import SHIM
from tests.system.gate import ROOT, Gate
from tests.waiting import wait_until

README = (ROOT / "README.md").read_text()
ELSEWHERE = {
    "make run": "it serves already",
    "createdb fleet": "with PostgreSQL: test_postgres.py",
    "FLEETGATE__STORE__URL": "with PostgreSQL: test_postgres.py",
    ".venv/bin/fleetgate ingest": "from another broker: test_source_mqtt.py",
    ".venv/bin/fleetgate init": "in a stock amqtt broker: test_stock_amqtt.py",
}
ENDLESS = (".venv/bin/fleetgate tail",)
SECONDS = 60


def blocks() -> list[tuple[str, str, int]]:
    """Kind, text and line of each."""
    found = re.finditer(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [(block[1], block[2], README.count("\n", 0, block.start()) + 1) for block in found]


def statements(text: str) -> list[str]:
    """Commands of a block: a line, or some where a quote or a backslash goes on."""
    found, statement = [], ""
    for line in text.splitlines():
        statement += line + "\n"
        if not line.endswith("\\") and statement.count("'") % 2 == 0:
            found.append(statement)
            statement = ""
    assert not statement, statement
    return found


class Newcomer:
    """A shell in a folder where a server runs, as in a clone; the ports are those of this server."""

    def __init__(self, gate: Gate) -> None:
        self.folder = gate.folder
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        listening, program = str(self.folder / "commands"), Path(sys.executable).with_name("fleetgate")
        (programs / "fleetgate").write_text(SHIM.format(python=sys.executable, program=str(program), socket=listening))
        (programs / "fleetgate").chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        self._commands = subprocess.Popen([sys.executable, "-m", "tests.system.commands", listening], cwd=ROOT)
        wait_until((self.folder / "commands").exists, what="commands can be run")
        self._port = gate.mqtt[1]
        self._known = {
            "127.0.0.1 -p 8883": f"127.0.0.1 -p {self._port}",
            "127.0.0.1:8080": gate.addresses["http"],
            "/srv/reports": str(self.folder / "reports"),
            "https://example.org/hook": "http://127.0.0.1:9/hook",  # nobody is there
        }

    def leave(self) -> None:
        """Give up the shell."""
        self._commands.kill()
        self._commands.wait()

    def tell(self, word: str, value: str) -> None:
        """What stands in the README for something that the reader has."""
        self._known[word] = value

    def suited(self, text: str) -> str:
        """The same for this server."""
        for word, value in self._known.items():
            text = text.replace(word, value)
        return text

    def paste(self, text: str) -> str:
        """Run a block, stopped at the first command that fails; what it printed."""
        bounded = f"PYTHONPATH={shlex.quote(str(ROOT))} {shlex.quote(sys.executable)} -m tests.system.interrupted "
        commands = statements(self.suited(text))
        lines = [bounded + each if each.startswith(ENDLESS) else each for each in commands]
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", "\n".join(lines)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def comes(self, device: str) -> str:
        """A device of another authority connects, and waits to be let in; its fingerprint."""
        files = ["--cafile", "devices/ca.pem", "--cert", f"{device}.pem", "--key", f"{device}-key.pem"]
        command = [
            "mosquitto_pub",
            "-h",
            "127.0.0.1",
            "-p",
            str(self._port),
            *files,
            "-i",
            "valve-9",
            "-t",
            "x",
            "-n",
            "-q",
            "1",
        ]
        refused = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert "not authorised" in refused.stderr.lower(), refused.stderr
        (found,) = json.loads(self.paste(".venv/bin/fleetgate provision pending --json\n"))
        return found["fingerprint"]


@pytest.fixture
def newcomer(tmp_path, need):
    need("mosquitto_pub", "mosquitto_rr", "curl")
    gate = Gate(tmp_path)
    gate.state = tmp_path / "var"
    with gate:
        made = Newcomer(gate)
        vendor_key, device_key = key(), key()
        vendor = certificate(ca=True, own=vendor_key, subject=name("Vendor CA"), uris=(), usage=None, days=3650)
        subject = x509.Name.from_rfc4514_string("CN=valve-9,O=Vendor")
        device = certificate(subject=subject, own=device_key, uris=(), issuer=vendor, issuer_key=vendor_key)
        (tmp_path / "vendor-ca.pem").write_bytes(pem(vendor))
        (tmp_path / "device.pem").write_bytes(pem(device))
        private = device_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "device-key.pem").write_bytes(private)
        try:
            yield made
        finally:
            made.leave()


def test_the_examples_of_the_readme(newcomer: Newcomer):
    """Each one works, in the order in which they stand: files are written, commands succeed."""
    for kind, text, _ in blocks():
        if kind == "yaml" and (named := re.match(r"# ([\w-]+\.yaml)\n", text)):
            (newcomer.folder / named[1]).write_text(newcomer.suited(text))
    printed, ran = "", 0
    for kind, text, _ in blocks():
        if kind == "sh" and not text.startswith(tuple(ELSEWHERE)):
            before, at, activate = text.partition(".venv/bin/fleetgate certificate activate FINGERPRINT")
            printed += newcomer.paste(before)
            if at:
                newcomer.tell("FINGERPRINT", newcomer.comes("device"))
                printed += newcomer.paste(at + activate)
            ran += 1
    assert ran == 13
    for wanted in ('"temperature": 21.5', "board-0001", "anna", "allowed", "radio"):
        assert wanted in printed, (wanted, printed)


def test_the_python_of_the_readme(newcomer: Newcomer):
    """The notebook's cell, up to the loop that never ends."""
    (cell,) = [text for kind, text, _ in blocks() if kind == "python" and "fleetgate.client" in text]
    newcomer.paste(".venv/bin/fleetgate device add pump-1 --type '' --site hall --out devices\n")
    code = cell.partition("for change in")[0] + "print(len(gate.fleet()), gate.device_show('pump-1')['notes'])\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=newcomer.folder,
        env=newcomer.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("1 oiled\n", 0), done.stderr
