"""Claim: ranks that have a host each train nearly as fast as ranks that share one host with as many cores.

The demo's network on three ranks: on one host, then on three, with 1 ms, 25 ms, and 25 ms and 1 % of lost frames from
one to another, one way. All on hosts of Linux name spaces, whose ranks share this machine's cores in every run; its
lines are what differs. Each goes on for some steps after the first ones. Goal: at least 0.9 of one host's steps a
second at 1 ms, 0.4 at 25 ms.

    python -m bench.size.apart --rounds 1
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import tyro

from bench.common import report
from bench.size.traffic import ROWS, draw_faces, run_config, timed_on
from ldlva_dist.config import RunConfig
from testing.hosts.cluster import BUCKET, FACES, WORKERS, HostCluster, host_cluster

LINES_MS_LOSS = {"1 ms": (1.0, 0.0), "25 ms": (25.0, 0.0), "25 ms, 1 % lost": (25.0, 0.01)}
GOALS = {"1 ms": 0.9, "25 ms": 0.4}
RANKS, CPUS = 3, 3
ALONE, TOGETHER = 1.75, 0.5
"""CPUs of a rank, beside those of its stream: a host of three holds one such rank, or all."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much is measured."""

    rounds: int = 1
    """Each round has a run on one host and one for each of the lines."""
    steps: int = 60
    """Timed in each run, after the first ones."""


def main(arguments: Arguments) -> None:
    """Run, and print the JSON line."""
    seconds: dict[str, list[float]] = {name: [] for name in ("one host", *LINES_MS_LOSS)}
    with tempfile.TemporaryDirectory(prefix="apart-") as name:
        folder = Path(name)
        draw_faces(folder / "faces")
        cpus: dict[str, int] = dict.fromkeys(WORKERS, CPUS)
        delays_ms: dict[str, float] = dict.fromkeys(WORKERS, 0.0)
        with host_cluster(folder / "hosts", cpus=cpus, delays_ms=delays_ms) as hosts:
            hosts.upload(folder / "faces")
            hosts.start_nodes("head", *WORKERS)
            for turn in range(arguments.rounds):
                for line, measured in seconds.items():
                    measured.append(_step_seconds(hosts, line, turn, arguments.steps))
    speeds = {line: 1 / median(measured) for line, measured in seconds.items()}
    shares = {line: speeds[line] / speeds["one host"] for line in LINES_MS_LOSS}
    ok = all(shares[line] >= goal for line, goal in GOALS.items())
    report("apart", ok=ok, ranks=RANKS, steps_per_s=speeds, to_one_host=shares, step_s=seconds)


def _step_seconds(hosts: HostCluster, line: str, turn: int, steps: int) -> float:
    """Of a run over these lines; half of a way's delay and loss lie before each host, until the run has ended."""
    delay_ms, loss = LINES_MS_LOSS.get(line, (0.0, 0.0))
    for name in WORKERS:
        hosts.hosts[name].change_line(delay_ms / 2, loss / 2)
    config = _config(f"turn-{turn}-{list(LINES_MS_LOSS).index(line) if line in LINES_MS_LOSS else 'one'}", steps)
    if line in LINES_MS_LOSS:
        config = replace(config, placement=replace(config.placement, cpus_per_worker=ALONE))
    step_s = timed_on(hosts, config, steps)["step_s"]
    for name in WORKERS:
        hosts.hosts[name].change_line(0.0, 0.0)
    hosts.orphans()
    return step_s


def _config(name: str, steps: int) -> RunConfig:
    rows = ROWS // RANKS * RANKS
    config = run_config(FACES, f"{BUCKET}/runs", name, ranks=RANKS, batch_size=rows, steps=steps)
    return replace(config, placement=replace(config.placement, cpus_per_worker=TOGETHER))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
