"""Claim: whatever is killed, stopped, filled or broken, a run ends as if nothing had happened, and leaves nothing over.

Each run is a small training (jobs/train.py, two ranks on two nodes, a bank, a checkpoint every 5 of 60 steps) that one
fault strikes; kind, moment and victim follow from its seed. Afterwards every position of the plan was trained exactly
once, losses and table are bit for bit those of the run that nothing happened to, and no actor, placement group, process
or temporary file is left. Goals: no failure, no orphan; a killed worker costs at most a checkpoint interval and 30 s.

The long run, in pieces: --runs 25 --start-seed 0 --out FILE, then --start-seed 25 and so on; --summary adds up a file.
"""

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from bench.common import report
from testing.faults.harness import CHECKPOINT_EVERY_STEPS, Harness, Record, can_mount, harness
from testing.faults.kinds import KINDS

LOST_GOAL_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which runs; run i is of kind i modulo the number of kinds, and all else of it is drawn by seed i."""

    runs: int = 3
    minutes: float | None = None
    """Go on for so long instead of a number of runs; Ctrl-C ends it too."""
    start_seed: int = 0
    kinds: tuple[str, ...] = ()
    """Of these kinds alone; all that this machine allows if none is named."""
    dataset: str | None = None
    """A packed data set with its graph; drawn where there is none."""
    straight: str | None = None
    """A run of the tests' long run on that data set that nothing happened to; made where there is none."""
    out: Path | None = None
    """Each run that has ended is appended to this file, as a line of JSON."""
    summary: bool = False
    """No run; add up the runs of --out."""


def main(arguments: Arguments) -> None:
    """Run, print a line for each run, and last the JSON line."""
    if arguments.summary:
        assert arguments.out, "--summary needs --out"
        _report([Record(**json.loads(line)) for line in arguments.out.read_text().splitlines()], left_out=[])
        return
    kinds = list(arguments.kinds or KINDS)
    left_out = [] if can_mount() else [kind for kind in kinds if KINDS[kind].place == "small disk"]
    kinds = [kind for kind in kinds if kind not in left_out]
    records: list[Record] = []
    try:
        with harness(kinds, arguments.dataset, arguments.straight) as made:
            for seed in _seeds(arguments):
                records.append(_run(made, seed, arguments.out))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    _report(records, left_out)


def _seeds(arguments: Arguments) -> Iterator[int]:
    """Of the runs to make, one after the other."""
    end, seed = time.monotonic() + 60 * (arguments.minutes or 0), arguments.start_seed
    while time.monotonic() < end if arguments.minutes else seed < arguments.start_seed + arguments.runs:
        yield seed
        seed += 1


def _run(made: Harness, seed: int, out: Path | None) -> Record:
    record = made.run(seed)
    print(
        f"seed {seed}: {record.kind} at step {record.step} ({record.struck}): {record.seconds:.1f} s, "
        f"{record.lost_s:.1f} s lost, {record.starts} starts: {'; '.join(record.failures) or 'as if nothing had been'}",
        flush=True,
    )
    if record.failures:
        print(made.said(f"run-{seed:05d}")[-4000:], file=sys.stderr, flush=True)
    if out:
        with out.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")
    return record


def _report(records: list[Record], left_out: list[str]) -> None:
    lost = {kind: [record.lost_s for record in records if record.kind == kind] for kind in KINDS}
    worst_kill = max(lost["kill rank"] + lost["kill stream task"], default=0.0)
    report(
        "faults",
        ok=bool(records) and not any(record.failures for record in records) and worst_kill <= LOST_GOAL_S,
        runs=len(records),
        kinds=dict(Counter(record.kind for record in records)),
        left_out=left_out,
        failures=[f"seed {r.seed}, {r.kind} at step {r.step}: {'; '.join(r.failures)}" for r in records if r.failures],
        orphans=sum(failure.startswith(("orphan", "left over")) for record in records for failure in record.failures),
        lost_s={kind: [statistics.median(values), max(values)] for kind, values in lost.items() if values},
        checkpoint_every_steps=CHECKPOINT_EVERY_STEPS,
        seconds=sum(record.seconds for record in records),
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
