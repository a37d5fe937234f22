"""Every look in a process of its own, with a limit: nothing that hangs or crashes keeps the others from answering.

`python -m ldlva_dist.doctor.checks NAME [ARGUMENT]` is that process; it prints a look as the last line of JSON.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from ldlva_dist.doctor.compare import compare_facts
from ldlva_dist.doctor.finding import Finding, Look
from ldlva_dist.records.console import say

PACKAGE = "ldlva_dist.doctor"
SIDE_BY_SIDE = 2
STORE_LIMIT_S = 20
"""Limit of one call to a store, unless LDLVA_S3_LIMIT_S says otherwise: a diagnosis need not be patient."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One look."""

    function: str
    """MODULE.NAME in this package."""
    area: str
    limit_s: float
    cure: str
    """Cure where the check does not answer, or falls over."""


KINDS = {
    "software": Kind(function="software.look_at_software", area="software", limit_s=30, cure="make setup"),
    "machine": Kind(
        function="machine.look_at_machine", area="machine", limit_s=30, cure="is a disk or mount not answering?"
    ),
    "driver": Kind(function="devices.look_at_driver", area="devices", limit_s=40, cure="restart the NVIDIA driver"),
    "torch": Kind(
        function="devices.look_at_torch", area="devices", limit_s=120, cure="pip install -c constraints.txt torch"
    ),
    "FAISS": Kind(
        function="devices.look_at_faiss", area="devices", limit_s=60, cure="pip install '.[cpu]' or '.[gpu]'"
    ),
    "DeepSpeed": Kind(
        function="devices.look_at_deepspeed",
        area="devices",
        limit_s=120,
        cure="DS_ACCELERATOR=cpu DS_BUILD_OPS=0 pip install -c constraints.txt --no-build-isolation deepspeed",
    ),
    "token": Kind(
        function="cluster.look_at_tokens", area="cluster", limit_s=60, cure="pip install -c constraints.txt ray"
    ),
    "Ray": Kind(
        function="cluster.look_at_ray",
        area="cluster",
        limit_s=120,
        cure="is the head that RAY_ADDRESS names up, and reachable from here? Without one: Ray's logs in /tmp/ray",
    ),
    "workers": Kind(
        function="workers.look_at_workers",
        area="cluster",
        limit_s=180,
        cure="is the head that RAY_ADDRESS names up, and are its GPUs free?",
    ),
    "storage": Kind(
        function="store.look_at_store",
        area="storage",
        limit_s=150,
        cure="is the mount or the store answering? Try another --storage",
    ),
}


def examine(names: Sequence[str], arguments: dict[str, str | None]) -> Iterator[Finding]:
    """Findings of some looks, in their order, as soon as they are there; then what they tell together."""
    facts: dict[str, Any] = {}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        looks = [pool.submit(take, KINDS[name], name, arguments.get(name)) for name in names]
        for look in looks:
            yield from look.result().findings
            facts |= look.result().facts
    yield from compare_facts(facts)


def take(kind: Kind, name: str, argument: str | None = None) -> Look:
    """One look by a process of its own; what it started ends with it."""
    command = [sys.executable, "-m", f"{PACKAGE}.checks", kind.function, *([argument] if argument else [])]
    environment = {"LDLVA_S3_LIMIT_S": str(STORE_LIMIT_S), **os.environ}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        told, errors = process.communicate(timeout=kind.limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return _failed(kind, name, f"did not answer in {kind.limit_s:g} s")
    if process.returncode:
        lines = errors.strip().splitlines() or [f"exit code {process.returncode}"]
        return _failed(kind, name, lines[-1])
    values = json.loads(told.splitlines()[-1])
    return Look(findings=tuple(Finding(**finding) for finding in values["findings"]), facts=values["facts"])


def _failed(kind: Kind, name: str, why: str) -> Look:
    return Look(findings=(Finding(area=kind.area, check=name, level="problem", found=why, cure=kind.cure),))


def _look(function: str, *arguments: str) -> None:
    module, name = function.split(".")
    found: Look = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)(*arguments)
    say("\n" + json.dumps(asdict(found)))


if __name__ == "__main__":
    _look(*sys.argv[1:])
