"""Case 10: a schema migration killed at any system call leaves the old schema or the new one, and runs again."""

import sqlite3
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import pytest

from fleet.registry.schema import metadata

TARGETS = {
    "fleet.db": (
        "import sys; from pathlib import Path; from fleet.registry.schema import migrate; migrate(Path(sys.argv[1]))",
        [{*metadata.tables, "alembic_version"}],
    ),
    "journal.db": (
        "import sys; from pathlib import Path; from ingester.sqlite.schema import migrate; migrate(Path(sys.argv[1]))",
        list(
            accumulate(
                (
                    {"journal", "series", "quarantine", "sqlite_sequence"},
                    {"found", "segments"},
                    {"quarantine_expired"},
                    {"rollup_files", "sealed_files", "sealed", "remembered"},
                    {"births"},
                    {"seen_topics"},
                ),
                set.union,
            )
        ),
    ),
}


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.timeout(600)
def test_killed_in_the_middle(need, tmp_path: Path, target: str, long: bool):
    """Killed at the nth write or sync: whole or nothing; then it is run to its end, and once more."""
    need("strace")
    script, versions = TARGETS[target]
    root = Path(__file__).parents[2]
    calls = "pwrite64,fdatasync,fsync,ftruncate,unlink"
    killed = 0
    for when in range(1, 60, 1 if long else 5):
        path = tmp_path / f"{when}-{target}"
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", path, "-P", f"{path}-wal", "-P", f"{path}-journal"]
        command += ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={when}"]
        done = subprocess.run(
            [*command, sys.executable, "-c", script, path], cwd=root, capture_output=True, check=False
        )
        if done.returncode == 0:
            break
        killed += 1
        assert tables(path) in (set(), *versions)
        for _ in range(2):
            subprocess.run([sys.executable, "-c", script, path], cwd=root, check=True)
            assert tables(path) == versions[-1]
    assert killed >= 2, "the migration was never killed"


def test_a_newer_telemetry_file_is_refused(tmp_path: Path):
    """With its version, and nothing touched."""
    from ingester.errors import StoreTooNew
    from ingester.sqlite.schema import migrate

    migrate(tmp_path / "journal.db")
    connection = sqlite3.connect(tmp_path / "journal.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreTooNew, match="99"):
        migrate(tmp_path / "journal.db")
