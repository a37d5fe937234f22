"""Claim: steps a second follow from how often and how much the ranks say to each other, and from latencies.

Counted in a run of two ranks, by wrapping the collectives of torch: calls and bytes a step, by cause. Measured alone,
on this machine: the step of one rank without others, what a collective costs beside its bytes, the bandwidth of a
connection, the round trip of a call to an actor. docs/concepts/traffic.md says how the time of a step follows from
these and from the latency of a network; this prints it for 2 to 1,024 ranks.

--hosts trains on hosts of Linux name spaces: all ranks on one host, then one on each, behind lines of 1 ms, of
--delay-ms, and of --delay-ms with 1 % of the frames lost. The model has seen none of these runs. Goals: --delay-ms
predicted within 20 %; of one host's steps a second, 0.9 at 1 ms and 0.4 at 25 ms.

    python -m bench.size.traffic                              # counts, parameters, predictions
    python -m bench.size.traffic --hosts --ranks 3 --delay-ms 25
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import tyro

from bench.common import report
from bench.size.counted_run import TURNS, WARMUP
from bench.size.step_model import Costs, Exchange, step_seconds
from ldlva_dist import storage
from ldlva_dist.config import RunConfig, to_json
from ldlva_dist.config.presets import demo
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.graph import build_graph
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES
from testing.forked_ranks import run_ranks
from testing.hosts.cluster import BUCKET, FACES, WORKERS, HostCluster, host_cluster
from testing.local_packing import pack_here

TRAIN, ROWS = 1024, 48
WITHIN, LOSS = 0.2, 0.01
SHARES = {"1 ms": 0.9, "slow": 0.4}
"""Goals of several hosts' steps a second, of one host's."""
STREAM_CPUS = 0.25
"""Of a rank; another such share of its host is left to the bank."""
RUN_LIMIT_S = 900.0

Run = Callable[[RunConfig], dict[str, Any]]
"""Makes a run, and gives the figures of its rank 0."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured."""

    ranks: int = 3
    """Of the run that is predicted."""
    delay_ms: float = 25.0
    """From one host to another, one way."""
    steps: int = 100
    """Counted and timed in each run, after the first ones."""
    hosts: bool = False
    """Train on hosts behind slow lines, and compare."""


def main(arguments: Arguments) -> None:
    """Count, measure, predict, and compare; one JSON line."""
    with tempfile.TemporaryDirectory(prefix="traffic-") as name:
        folder = Path(name)
        draw_faces(folder / "faces")
        measure = measure_on_hosts if arguments.hosts else measure_here
        report("traffic", ranks=arguments.ranks, delay_ms=arguments.delay_ms, **measure(folder, arguments))


def measure_here(folder: Path, arguments: Arguments) -> dict[str, Any]:
    """Figures of this machine, and what follows for others."""
    run = partial(run_here, folder, steps=arguments.steps)
    place = str(folder / "faces"), str(folder)
    exchanges, costs = measure_parts(run, place, arguments)
    figures: dict[str, Any] = {"ok": True, "exchanges": [vars(each) for each in exchanges], "costs": vars(costs)}
    for delay_ms in (0.05, 1.0, arguments.delay_ms):
        figures[f"steps_per_s_at_{delay_ms:g}_ms"] = {
            str(2**power): 1 / step_seconds(exchanges, costs, ranks=2**power, delay_s=delay_ms / 1000)
            for power in range(1, 11)
        }
    return figures


def measure_on_hosts(folder: Path, arguments: Arguments) -> dict[str, Any]:
    """Figures of one host and of several, and what the model says of them."""
    ranks, names, place = arguments.ranks, WORKERS[: arguments.ranks], (FACES, f"{BUCKET}/runs")
    cpus: dict[str, int] = dict.fromkeys(names, ranks)
    no_delay: dict[str, float] = dict.fromkeys(names, 0.0)
    lines = {"1 ms": (1.0, 0.0), "slow": (arguments.delay_ms, 0.0), "slow and lossy": (arguments.delay_ms, LOSS)}
    measured: dict[str, Any] = {}
    with host_cluster(folder / "hosts", cpus=cpus, delays_ms=no_delay) as hosts:
        hosts.upload(folder / "faces")
        hosts.start_nodes("head", *names)
        run = partial(run_on_hosts, hosts, steps=arguments.steps)
        exchanges, costs = measure_parts(run, place, arguments)
        together = run_config(*place, "one-host", ranks=ranks, rows=ROWS // ranks, steps=arguments.steps)
        measured["one host"] = run(together)
        for line, (delay_ms, loss) in lines.items():
            config = replace(together, name=line.replace(" ", "-"))
            config = replace(config, placement=replace(config.placement, cpus_per_worker=ranks - 2 * STREAM_CPUS))
            for name in names:  # a frame passes two of them
                hosts.hosts[name].change_line(delay_ms / 2, loss / 2)
            measured[line] = run(config)
            print({name: f"{1 / figures['step_s']:.2f} steps/s" for name, figures in measured.items()})
            for name in names:
                hosts.hosts[name].change_line(0.0, 0.0)
    predicted = {
        line: step_seconds(exchanges, costs, ranks=ranks, delay_s=delay_ms / 1000, cores=os.cpu_count() or 1)
        for line, delay_ms in {"one host": 0.0, "1 ms": 1.0, "slow": arguments.delay_ms}.items()
    }
    ratios = {line: measured[line]["step_s"] / seconds for line, seconds in predicted.items()}
    shares = {line: measured["one host"]["step_s"] / measured[line]["step_s"] for line in lines}
    return {
        "ok": abs(ratios["slow"] - 1) <= WITHIN and all(shares[line] >= goal for line, goal in SHARES.items()),
        "costs": vars(costs),
        "predicted_steps_per_s": {line: 1 / seconds for line, seconds in predicted.items()},
        "measured_steps_per_s": {line: 1 / figures["step_s"] for line, figures in measured.items()},
        "predicted_to_measured": ratios,
        "share_of_one_host": shares,
        "host_of_rank_0_per_step": {line: figures["card"] for line, figures in measured.items()},
    }


def measure_parts(run: Run, place: tuple[str, str], arguments: Arguments) -> tuple[list[Exchange], Costs]:
    """What two ranks say to each other, and the model's parameters; ``place`` has the data set and the runs."""
    rows, steps = ROWS // arguments.ranks, arguments.steps
    counted, alone = (run(run_config(*place, f"of-{ranks}", ranks=ranks, rows=rows, steps=steps)) for ranks in (2, 1))
    with tempfile.TemporaryDirectory() as folder:
        run_ranks(time_collectives, (folder,), 2)
        timed = json.loads((Path(folder) / "timed").read_text())
    costs = Costs(step_s=alone["step_s"], actor_call_s=alone["actor_call_s"], **timed)
    return [Exchange(**each) for each in counted["exchanges"]], costs


def time_collectives(rank: int, folder: str) -> None:
    """One rank of two: seconds of a small all-to-all, and bytes a second of a large all-reduce."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    small, large = torch.zeros(16), torch.zeros(1 << 21)

    def seconds(call: Any) -> float:
        call()
        began = time.monotonic()
        for _ in range(TURNS):
            call()
        return (time.monotonic() - began) / TURNS

    hop_s = seconds(lambda: dist.all_to_all_single(torch.empty_like(small), small))
    bytes_per_s = large.numel() * 4 / seconds(lambda: dist.all_reduce(large))
    if rank == 0:
        (Path(folder) / "timed").write_text(json.dumps({"hop_s": hop_s, "bytes_per_s": bytes_per_s}))
    dist.destroy_process_group()


def run_config(dataset: str, storage_path: str, name: str, *, ranks: int, rows: int, steps: int) -> RunConfig:
    """The demo's network, ``rows`` of a few faces a rank, without evaluations and checkpoints on the way."""
    config = demo()
    return replace(
        config,
        name=name,
        storage_path=storage_path,
        data=replace(config.data, dataset=dataset, batch_size=ranks * rows),
        loss=replace(config.loss, warmup_epochs=0.0),
        training=replace(
            config.training,
            epochs=(WARMUP + steps + 1) * ranks * rows / TRAIN,
            evaluate_every_epochs=999.0,
            tracker="none",
        ),
        placement=replace(config.placement, num_workers=ranks, cpus_per_worker=0.5, data_cpus_per_worker=STREAM_CPUS),
    )


def draw_faces(folder: Path) -> None:
    """Pack 1,024 drawn faces in this process, all for training, with their graph."""
    source = FacesSource(train=TRAIN, test=0, pixels=48, flip_share=0.3, seed=0)
    pack_here(source, folder, PackSettings(name="faces", class_names=REFERENCE_CLASSES, holdout=0.0))
    build_graph(Dataset.open(str(folder)))


def run_here(folder: Path, config: RunConfig, *, steps: int) -> dict[str, Any]:
    """What :mod:`bench.size.counted_run` writes of a run on this machine."""
    settings, result = folder / f"{config.name}-settings.json", folder / f"{config.name}.json"
    settings.write_text(to_json(config))
    command = [sys.executable, "-m", "bench.size.counted_run", "--job", str(settings), "--result", str(result)]
    subprocess.run([*command, "--steps", str(steps)], check=True, timeout=RUN_LIMIT_S, stdout=subprocess.DEVNULL)
    return json.loads(result.read_text())


def run_on_hosts(hosts: HostCluster, config: RunConfig, *, steps: int) -> dict[str, Any]:
    """What :mod:`bench.size.counted_run` writes of a run on hosts."""
    result = f"{BUCKET}/{config.name}.json"
    options = ["--job", hosts.write_settings(config), "--result", result, "--steps", str(steps)]
    job = hosts.submit(config.name, ["python", "-m", "bench.size.counted_run", *options])
    code = job.wait(RUN_LIMIT_S)
    assert code == 0, job.said[-3000:]
    hosts.orphans()
    with hosts.hosts["client"].network():
        return json.loads(storage.read_bytes(result))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
