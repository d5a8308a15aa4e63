"""Notes when a core of the machine ran nothing, until its input ends.

    python -m benchmarks.stalls CORE

It has real-time priority there and sleeps for half a millisecond: all that it is late by more than that again is the
machine's, interrupts, or its host gave the core to somebody else. Says when it begins; at its end prints starts and
ends, seconds of time.monotonic().
"""

import os
import sys
import threading
import time

SLEEP = 0.0005


def main() -> None:
    """Watch a core."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    ending = threading.Thread(target=sys.stdin.read)
    ending.start()
    print("watching", flush=True)
    found = []
    while ending.is_alive():
        due = time.monotonic() + SLEEP
        time.sleep(SLEEP)
        if (woke := time.monotonic()) - due > SLEEP:
            found.append((due, woke))
    for start, end in found:
        print(start, end)


if __name__ == "__main__":
    main()
