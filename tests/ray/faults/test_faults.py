"""One fault of the harness in every run of the tests; `make soak` and bench/faults.py draw many more."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ldlva_dist import launch

KINDS = ("kill node",)


def test_a_run_that_loses_a_node_with_a_rank_or_a_bank_actor_ends_as_if_nothing_had_happened(
    straight: launch.RunResult, faces: str, root: Path
) -> None:
    """In a process of its own, because it has a cluster of several nodes."""
    command = [sys.executable, str(root / "bench" / "faults.py"), "--dataset", faces, "--straight", straight.run_uri]
    done = subprocess.run(
        [*command, "--runs", str(len(KINDS)), "--kinds", *KINDS],
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["failures"] == [], done.stderr
    assert report["kinds"] == {kind: 1 for kind in KINDS if kind not in report["left_out"]}
