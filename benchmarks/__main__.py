"""Run one benchmark, or all of them."""

import sys

from benchmarks import broker, connections, history, ingest, large, metrics, operation, policies, postgres, registry

BENCHMARKS = {
    "ingest": ingest.main,
    "broker": broker.main,
    "sustained": broker.sustained,
    "connections": connections.main,
    "metrics": metrics.main,
    "history": history.main,
    "large": large.main,
    "postgres": postgres.main,
    "registry": registry.main,
    "operation": operation.main,
    "policies": policies.main,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
        print(f"## {name}")
        BENCHMARKS[name]()
        print()
