"""The process that does what takes long: with a priority of its own, told what to do by the one that owns the journal.

It gets names of functions, `module:function`, with their arguments, one after the other, and ends with its standard
input, whatever it does: nobody writes where another one has begun in the place of who was killed.
"""

import gc
import os
import pickle
import struct
import sys
from importlib import import_module
from queue import SimpleQueue
from threading import Thread
from typing import Any, BinaryIO, NoReturn

LENGTH = struct.Struct("<Q")
"""Before each request and each answer: how many bytes it has."""


def main(requests: BinaryIO, answers: BinaryIO) -> NoReturn:
    """Answer until there are no more requests: (True, result), or (False, error)."""
    gc.disable()  # readings are many, and no cycles: looking for some took a third of the time
    asked: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(requests, asked), daemon=True).start()
    while True:
        function, arguments = pickle.loads(asked.get())
        answer: tuple[bool, Any]
        try:
            module, _, name = function.partition(":")
            answer = True, getattr(import_module(module), name)(*arguments)
        except Exception as error:  # noqa: BLE001 - supervision point: it is raised in the process that asked
            answer = False, error
        data = _pickled(answer)
        try:
            answers.write(LENGTH.pack(len(data)) + data)
            answers.flush()
        except BrokenPipeError:
            os._exit(0)  # whoever asked was killed; there is nobody to tell


def _pickled(answer: tuple[bool, Any]) -> bytes:
    """The pickled answer; an error that can't be unpickled is replaced by its text."""
    try:
        data = pickle.dumps(answer)
        if not answer[0]:
            pickle.loads(data)
    except Exception:  # noqa: BLE001 - errors of libraries may need anything to be made again
        return pickle.dumps((False, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))
    return data


def _listen(requests: BinaryIO, asked: SimpleQueue[bytes]) -> None:
    """Take requests, and end the process when nobody can make any more."""
    while len(head := requests.read(LENGTH.size)) == LENGTH.size:
        asked.put(requests.read(*LENGTH.unpack(head)))
    os._exit(0)


if __name__ == "__main__":
    os.nice(int(sys.argv[1]))
    main(sys.stdin.buffer, sys.stdout.buffer)
