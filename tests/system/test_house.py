"""The distribution and the documents."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import get_args

from typer.main import get_command

from fleet.provisioning.model import Code
from fleetgate.cli import app
from fleetgate.http.openapi import EXAMPLES
from fleetgate.settings import Settings, _model_of
from tests.system.gate import ROOT, Gate


def test_the_wheel_holds_exactly_the_four_packages(tmp_path: Path):
    """Nothing else, and every module of them."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("fleetgate-*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    packages = ("fleetgate", "broker_plugins", "fleet", "ingester")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    expected = {str(path.relative_to(ROOT)) for path in [*files, EXAMPLES]}
    assert set(names) == expected


def test_every_metric_is_in_the_readme(gate: Gate):
    """A metric that nobody can look up is half a metric."""
    readme = (ROOT / "README.md").read_text()
    for line in gate.get("/metrics", token=False).splitlines():
        if line.startswith("# TYPE fleetgate_"):
            name = line.split()[2]
            assert f"`{name}" in readme, name


def test_every_section_of_the_settings_is_in_the_readme():
    """With each of its keys."""
    readme = (ROOT / "README.md").read_text()
    for section, field in Settings.model_fields.items():
        for key in _model_of(field).model_fields:
            assert re.search(rf"`{section}\.[a-z_, ]*\b{key}\b|`{key}`", readme), f"{section}.{key}"


def test_every_code_of_provisioning_is_in_the_readme():
    """Devices rely on them."""
    readme = (ROOT / "README.md").read_text()
    assert [code for code in get_args(Code) if f"`{code}`" not in readme] == []


def test_every_command_prints_json():
    """Except programs that serve, files that are told as they are, and what is JSON anyway."""
    without = []

    def look(command, name: str) -> None:
        for each, below in getattr(command, "commands", {}).items():
            look(below, f"{name} {each}")
        options = {option for parameter in command.params for option in parameter.opts}
        if not hasattr(command, "commands") and not options & {"--json", "--format"}:
            without.append(name.strip())

    look(get_command(app), "")
    assert without == ["init", "serve", "ingest", "dataset get", "audit export", "audit checkpoint"]


def test_every_command_is_in_the_readme():
    """As `fleetgate COMMAND`."""
    readme = (ROOT / "README.md").read_text()
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    for name in [*names, *(group.name for group in app.registered_groups)]:
        assert f"fleetgate {name}" in readme, name
