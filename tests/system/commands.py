"""Runs commands of the program in processes of their own that need not import it first: they are forked.

    python -W error -m tests.system.commands [SOCKET]

reads one request a line, JSON: arguments, cwd, environment, files for stdout and stderr; answers with the exit code.
With SOCKET, a path, a request comes by a connection each, with stdin, stdout and stderr; see SHIM.
"""

import json
import os
import socket
import sys
from collections.abc import Sequence

from fleetgate.cli import main

SHIM = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] == ["tail"]:  # until it is interrupted: by itself
    os.execv({program!r}, [{program!r}, *sys.argv[1:]])
request = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    sys.exit(int(server.recv(16)))
"""
"""The program, for a shell that runs it often."""
_REQUEST_BYTES = 1024 * 1024


def serve() -> None:
    """Answer requests until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        files = [
            os.open(os.devnull, os.O_RDONLY),
            *(os.open(request[each], flags, 0o600) for each in ("stdout", "stderr")),
        ]
        sys.stdout.write(f"{forked(request, files)}\n")
        sys.stdout.flush()


def serve_at(path: str) -> None:
    """Answer requests that come to a socket, one after the other, for ever."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        while True:
            asking, _ = listening.accept()
            with asking:
                data, files, _, _ = socket.recv_fds(asking, _REQUEST_BYTES, 3)
                asking.send(b"%d" % forked(json.loads(data), files))


def forked(request: dict, files: Sequence[int]) -> int:
    """Run it with these as stdin, stdout and stderr, which are closed here; its exit code."""
    child = os.fork()
    if not child:
        run(request, files)
    for file in files:
        os.close(file)
    _pid, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def run(request: dict, files: Sequence[int]) -> None:
    """Be the program, in this process, until its end."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.argv = ["fleetgate", *request["arguments"]]
    try:
        main()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    os._exit(70)


if __name__ == "__main__":
    if sys.argv[1:]:
        serve_at(sys.argv[1])
    else:
        serve()
