"""The head of the tests' cluster, a process of its own; the workers are its forks (ldlva_dist/runtime/fork_server.py).

A worker that starts by itself imports for five seconds of CPU, and pytest, which has threads, may not be forked.
`python -m testing.clusters.forking_head CPUS` prints the address, and ends when its input is closed.
"""

import json
import sys
from importlib import import_module

from ldlva_dist.runtime.own_cluster import start_cluster

IMPORTED = "ldlva_dist.run.sweep", "ldlva_dist.packing.passes.pack", "ldlva_dist.inference.batch"
"""What workers of most tests import."""


def main(num_cpus: int) -> None:
    """Start, say where, wait for the end."""
    cluster = start_cluster(_preload, dashboard=False, num_cpus=num_cpus)
    assert cluster.fork_server is not None, "something that is imported has a thread: workers could not be forked"
    print(json.dumps({"address": cluster.address}), flush=True)  # noqa: T201
    sys.stdin.read()
    cluster.stop()


def _preload() -> None:
    for module in IMPORTED:
        import_module(module)
    import_module("ldlva_dist.training.engine").import_deepspeed(use_gpu=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
