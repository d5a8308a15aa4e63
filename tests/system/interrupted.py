"""Runs a command that never ends by itself, and interrupts it once it has reached a server: what Ctrl-C does.

python -m tests.system.interrupted COMMAND [ARGUMENT...]
"""

import signal
import subprocess
import sys

import psutil

from tests.waiting import wait_until


def main() -> None:
    """Exit with the command's exit code."""
    running = subprocess.Popen(sys.argv[1:])
    process = psutil.Process(running.pid)
    wait_until(lambda: running.poll() is not None or _is_connected(process), 50, "it is connected")
    running.send_signal(signal.SIGINT)
    sys.exit(running.wait())


def _is_connected(process: psutil.Process) -> bool:
    return any(found.status == psutil.CONN_ESTABLISHED for found in process.net_connections("inet"))


if __name__ == "__main__":
    main()
