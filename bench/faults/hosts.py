"""Claim: whatever befalls the hosts of a cluster, a run ends as if nothing had happened, and its submitter is told why.

A head without CPUs, three workers, a store and a client are hosts of Linux name spaces, with a network, processes and
disks of their own; jobs come by `ray job submit`. Each run is a training of 300 steps that one fault strikes; kind,
moment and victim follow from its seed. Afterwards every position of the plan was trained exactly once, losses and
table are bit for bit those of the run that nothing happened to (but for rounding where the number of workers changed),
no process is left on any host, every stop was one sentence, and jobs/status.py ends with the right code.

    make soak-hosts MINUTES=60 SEED=0
    python -m bench.faults.hosts --runs 64 --out FILE       # each kind four times; --summary adds up a file
    python -m bench.faults.hosts --kinds "head back" --runs 1   # on a cluster with a Redis (redis-server on the PATH)
    python -m bench.faults.hosts --runs 0 --resumes slow    # resume from every 30th step, over a store with 50 ms
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from bench.common import report
from testing.faults.harness import Record
from testing.hosts.harness import HostHarness, host_harness, kinds_here
from testing.hosts.kinds import HOST_KINDS
from testing.hosts.spaces import why_no_hosts


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which runs; run i is of kind i modulo the number of kinds, and all else of it is drawn by seed i."""

    runs: int = 2
    minutes: float | None = None
    """Go on for so long instead of a number of runs; Ctrl-C ends it too."""
    start_seed: int = 0
    kinds: tuple[str, ...] = ()
    """Of these kinds alone; all that this machine allows if none is named."""
    resumes: Literal["none", "quick", "slow"] = "none"
    """Resume a run from each of its checkpoints besides, with the store as it is or 50 ms slower."""
    resumed_hosts: int = 2
    """Of that run."""
    out: Path | None = None
    """Each run that has ended is appended to this file, as a line of JSON; seeds that are in it are not run again."""
    summary: bool = False
    """No run; add up the runs of --out."""


def main(arguments: Arguments) -> None:
    """Run, print a line for each run, and last the JSON line."""
    if arguments.summary:
        assert arguments.out, "--summary needs --out"
        _report(_read(arguments.out), {})
        return
    if why := why_no_hosts():
        report("hosts", ok=True, skipped=why)
        return
    records = _read(arguments.out)
    others: dict[str, object] = {}
    try:
        with host_harness(list(arguments.kinds) or kinds_here()) as made:
            done = {record.seed for record in records}
            for seed in (seed for seed in _seeds(arguments) if seed not in done):
                records.append(_run(made, seed, arguments.out))
            if arguments.resumes != "none":
                hosts = arguments.resumed_hosts
                others = {"resumes": arguments.resumes, "resumed_hosts": hosts}
                others["resumes_differ"] = made.check_resumes(slow=arguments.resumes == "slow", hosts=hosts)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
    _report(records, others)


def _read(out: Path | None) -> list[Record]:
    """The runs that are in a file."""
    return [Record(**json.loads(line)) for line in out.read_text().splitlines()] if out and out.exists() else []


def _seeds(arguments: Arguments) -> Iterator[int]:
    """Of the runs to make, one after the other."""
    end, seed = time.monotonic() + 60 * (arguments.minutes or 0), arguments.start_seed
    while time.monotonic() < end if arguments.minutes else seed < arguments.start_seed + arguments.runs:
        yield seed
        seed += 1


def _run(made: HostHarness, seed: int, out: Path | None) -> Record:
    record = made.run(seed)
    line = json.dumps(asdict(record))
    print(line, flush=True)
    if record.failures:
        print(made.said(f"run-{seed:05d}")[-4000:], file=sys.stderr, flush=True)
    if out:
        with out.open("a") as file:
            file.write(f"{line}\n")
    return record


def _report(records: list[Record], others: dict[str, object]) -> None:
    lost = {kind: [record.lost_s for record in records if record.kind == kind] for kind in HOST_KINDS}
    stood = {kind: [r.stood_s for r in records if r.kind == kind and r.stood_s is not None] for kind in HOST_KINDS}
    failures = [f"seed {r.seed}, {r.kind} after step {r.step}: {'; '.join(r.failures)}" for r in records if r.failures]
    report(
        "hosts",
        ok=not failures and not others.get("resumes_differ"),
        runs=len(records),
        kinds=dict(Counter(record.kind for record in records)),
        failures=failures,
        orphans=sum(failure.startswith("orphan") for record in records for failure in record.failures),
        lost_s={kind: [min(values), max(values)] for kind, values in lost.items() if values},
        stood_s={kind: [min(values), max(values)] for kind, values in stood.items() if values},
        seconds=sum(record.seconds for record in records),
        cores=os.cpu_count(),
        **others,
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
