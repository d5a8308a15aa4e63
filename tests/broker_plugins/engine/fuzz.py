"""Fuzz target for the codec: `python -m tests.broker_plugins.engine.fuzz SECONDS [SEED]`.

Mutates the catalogue of wire cases; whatever is no ProtocolError ends it with the input that did it.
"""

import random
import sys
import time

from broker_plugins.engine.errors import ProtocolError
from broker_plugins.engine.packets import V5, V311, encode
from tests.broker_plugins.engine.test_codec_properties import CORPUS, read_all


def mutated(source: random.Random, data: bytes) -> bytes:
    """One input: bytes changed, cut out, doubled, or two inputs spliced."""
    found = bytearray(data)
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(found) + 1)
        match source.randrange(4):
            case 0 if at < len(found):
                found[at] = source.randrange(256)
            case 1:
                del found[at : at + source.randint(1, 4)]
            case 2:
                found[at:at] = source.randbytes(source.randint(1, 4))
            case _:
                other = source.choice(CORPUS)
                found[at:] = other[source.randrange(len(other) + 1) :]
    return bytes(found)


def run(seconds: float, seed: int) -> int:
    """Fuzz for so long; how many inputs that were. What was read is written and read again."""
    source, count = random.Random(seed), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(1000):
            data, version = mutated(source, source.choice(CORPUS)), source.choice((V311, V5))
            count += 1
            try:
                packets = read_all(data, version)
            except ProtocolError:
                continue
            except Exception:
                print(f"input {data.hex()} version {version} seed {seed}", file=sys.stderr)
                raise
            for packet in packets:
                encode(packet, V5)
    return count


if __name__ == "__main__":
    given = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    print(f"{run(float(sys.argv[1]), given):,} inputs, seed {given}")
