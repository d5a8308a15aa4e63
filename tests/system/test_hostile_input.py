"""Every command with files and arguments that nobody expects: one clear line, never a traceback nor a fault of ours.

The commands are those of the program itself: a new one is tried without being named here.
"""

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from fleet.authority import signing_request
from fleetgate.cli import app
from tests.fleet.pki import certificate, der, key, pem
from tests.system.gate import Gate

LONG = "x" * 20_000
ARGUMENTS = (
    "", " ", ".", "..", "/", "a/b", "a/../b", "%", "%2F", "%00", "?", "#", "a?b=c", "-", "é", "\n", "a\nb", "\x1b[2J",
    "\u202e", "💥", "'", '"', "; DROP TABLE devices", "${x}", "{", "[", "\udcff", LONG, "0", "-1", "1e999", "nan",
    "99999999999999999999", "NULL", "*", "+", "a,b=c", "=", "a=", "=a", "http://[", "mqtt://[::1", "file:///etc/passwd",
)  # fmt: skip
ENDLESS = {"serve", "simulate", "tail", "top", "ingest"}
"""These go on until they are interrupted, when nothing is wrong with what they are given."""


def hostile_files(folder: Path) -> list[Path]:
    """Files of every kind but the right one."""
    own = key()
    made = certificate(own=own)
    request = signing_request("x")[1]
    private = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    contents = {
        "empty": b"",
        "binary": random.Random(1).randbytes(3000),
        "nul": b"\x00" * 500,
        "certificate.der": der(made),
        "request.pem": request,
        "certificate.pem": pem(made),
        "crlf.pem": pem(made).replace(b"\n", b"\r\n"),
        "bom.pem": b"\xef\xbb\xbf" + pem(made),
        "cut.pem": pem(made)[:-60],
        "label.pem": pem(made).replace(b"CERTIFICATE", b"CERTIFICATE REQUEST"),
        "key.pem": private,
        "bundle.p12": pkcs12.serialize_key_and_certificates(b"x", own, made, None, NoEncryption()),
        "utf16": '{"a": 1}'.encode("utf-16"),
        "bom.json": b"\xef\xbb\xbf{}",
        "latin": "größe".encode("latin-1"),
        "deep.json": b"[" * 100_000,
        "deep.yaml": b"- " * 20_000,
        "bomb.yaml": bomb.encode(),
        "line": b"x" * 1_000_000,
        "tag.yaml": b"!!python/object/apply:os.system [echo]\n",
        "number.json": b"1" * 5000,
        "list.csv": b'name,"\n\x00,"',
        "list.ndjson": b'{"name": "\\ud800"}\n{"name": 1}\n[]\n',
        "settings.toml": b"a = " + b"[" * 5000,
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    closed = folder / "closed"
    closed.write_bytes(b"x")
    closed.chmod(0)
    return [*(folder / name for name in contents), folder / "folder", closed, folder / "missing", *devices(folder)]


def devices(folder: Path) -> Iterator[Path]:
    """A device of the test's own that is always empty: a fault must not reach the machine's."""
    if os.geteuid() == 0:
        os.mknod(folder / "null", 0o666 | stat.S_IFCHR, Path(os.devnull).stat().st_rdev)
        yield folder / "null"


def commands(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All that do something, by their names."""
    if hasattr(found, "commands"):
        for name, one in found.commands.items():
            yield from commands(one, (*path, name))
    else:
        yield path, found


COMMANDS = {" ".join(path): one for path, one in commands(typer.main.get_command(app)) if path[0] not in ENDLESS}


def hostile(parameter: Any, files: list[Path], chance: random.Random) -> str:
    """A value for an argument or option: files for files, mostly, and texts for everything else."""
    if parameter.type_descriptor.annotation is Path and chance.random() < 0.9:
        return str(chance.choice(files))
    return chance.choice(ARGUMENTS)


def invocation(name: str, files: list[Path], chance: random.Random) -> list[str]:
    """The command with all its arguments, and with some of its options; those of files are more often given."""
    given = name.split()
    arguments: list[str] = []
    for parameter in COMMANDS[name].params:
        if not parameter.opts[0].startswith("-"):
            arguments += [hostile(parameter, files, chance) for _ in range(1 if parameter.nargs == 1 else 2)]
        elif parameter.name in {"state", "config", "help"}:
            continue
        elif getattr(parameter, "is_flag", False):
            given += [parameter.opts[0]] if chance.random() < 0.3 else []
        elif chance.random() < (0.6 if parameter.type_descriptor.annotation is Path or parameter.required else 0.2):
            given += [parameter.opts[0], hostile(parameter, files, chance)]
    return [*given, "--", *arguments] if arguments else given


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    with Gate(tmp_path_factory.mktemp("hostile")) as made:
        made.add("x")
        yield made


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    return hostile_files(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_with_what_nobody_expects(gate: Gate, files: list[Path], name: str, request):
    """It ends with an answer or one line that says what is wrong; nothing is a fault of the server."""
    chance = random.Random(name)
    for _ in range(30 if request.config.getoption("--long") else 1):
        given = invocation(name, files, chance)
        done = gate.run(*given, check=False)
        code, out, err = done.returncode, done.stdout, done.stderr
        shown = [part if len(part) < 200 else f"{part[:20]}..." for part in given]
        assert code in {0, 1, 2}, (shown, code, err[-500:])
        assert "Traceback" not in err, (shown, err[-500:])
        assert "an error of ours" not in err + out, (shown, err)
        if code == 1 and not out:
            said = [line for line in err.splitlines() if line.strip()]
            assert said[-1].startswith("fleetgate: "), (shown, err)
            assert sum(line.startswith("fleetgate: ") for line in said) == 1, (shown, err)


def test_der_where_pem_is_usual(tmp_path):
    """Certificates, signing requests and authorities are taken in both forms, from files and in settings."""
    own, mine = key(), key()
    ca = certificate(cn="elsewhere", ca=True, uris=(), usage=None, own=own)
    made = certificate(uris=("spiffe://fleetgate.local/device/d",), issuer=ca, issuer_key=own, own=mine)
    (tmp_path / "ca.der").write_bytes(der(ca))
    (tmp_path / "d.der").write_bytes(der(made))
    request = x509.load_pem_x509_csr(signing_request("c")[1])
    (tmp_path / "c.der").write_bytes(request.public_bytes(Encoding.DER))
    with Gate(tmp_path / "gate", environment={"FLEETGATE__TLS__CLIENT_CA": str(tmp_path / "ca.der")}) as gate:
        gate.run("device", "add", "d", "--certificate", str(tmp_path / "d.der"))
        assert gate.json("provision", "check", str(tmp_path / "d.der"))["decision"] == "allow"
        gate.run("device", "add", "c", "--csr", str(tmp_path / "c.der"))
        again = gate.run("certificate", "add", "d", "--certificate", str(tmp_path / "d.der"), check=False)
        assert "registered already" in again.stderr
        gate.run("authority", "set", "elsewhere", str(tmp_path / "ca.der"))
        root = gate.state / "pki" / "ca.pem"
        (tmp_path / "root.der").write_bytes(der(x509.load_pem_x509_certificate(root.read_bytes())))
        (tmp_path / "log").write_text(gate.run("audit", "export").stdout)
        found = gate.run("audit", "verify", "--file", str(tmp_path / "log"), "--ca", str(tmp_path / "root.der"))
        assert "Traceback" not in found.stderr


@pytest.mark.parametrize("name", ["", "..", ".", "x/telemetry", "x%2Ftelemetry", "x?a=b", "x#y", "é", "\udcff"])
def test_names_that_mean_something_in_paths(gate: Gate, name: str):
    """They are names that nobody has, whatever is behind them: no other route is asked."""
    for command in (("device", "show"), ("device", "delete"), ("group", "delete"), ("operator", "delete")):
        done = gate.run(*command, "--", name, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
        assert done.stderr.startswith("fleetgate: ")
    assert gate.json("device", "show", "x")["name"] == "x"


@pytest.mark.parametrize("number", ["nan", "inf", "1e999", "-1"])
def test_numbers_without_end(gate: Gate, number: str):
    """They are refused, also by commands that go on for as long as they say."""
    for command in (
        ("claim", "add", "c", "--template", "t", "--out", str(gate.folder / "o"), f"--days={number}"),
        ("sql", "SELECT 1", f"--seconds={number}"),
        ("simulate", f"--rate={number}"),
        ("simulate", f"--duration={number}"),
        ("top", f"--every={number}"),
    ):
        assert gate.run(*command, check=False).returncode in {1, 2}
