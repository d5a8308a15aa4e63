"""Runs commands of the program in processes of their own that need not import it first: they are forked.

    python -W error -m tests.system.commands

reads one request a line, JSON: arguments, cwd, environment, files for stdout and stderr; answers with the exit code.
"""

import json
import os
import sys

from fleetgate.cli import main


def serve() -> None:
    """Answer requests until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            run(request)
        _pid, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def run(request: dict) -> None:
    """Be the program, in this process, until its end."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, file in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(file, os.O_RDONLY if number == 0 else flags, 0o600), number)
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
    serve()
