"""Claim: steps a second follow from how often and how much the ranks say to each other, and from latencies.

Counted in a run of two ranks, by wrapping the collectives of torch: calls and bytes a step, by cause. Measured alone:
the step of one rank without others, what a message costs beside its bytes, the bandwidth of a connection
(message_costs.py), the round trip of a call to an actor. docs/concepts/traffic.md says how the time of a step follows
from these and from the latency of a network; this prints it for 2 to 1,024 ranks.

--hosts trains on hosts of Linux name spaces: all ranks on one host, then one on each, behind lines of 1 ms, of
--delay-ms, and of --delay-ms with 1 % of the frames lost. The model has seen none of these runs but the first. Goals:
--delay-ms predicted within 20 %; of one host's steps a second, 0.4 at 25 ms for the demo's network, and 0.9 at 1 ms for
a ResNet-18 of 112 px.

The lines are processes on the cores that the ranks share, and take more of them than a network card would: what
messages cost is measured through them, without a delay.

    python -m bench.size.traffic                              # counts, parameters, predictions
    python -m bench.size.traffic --hosts --ranks 3 --delay-ms 25
    python -m bench.size.traffic --hosts --network resnet18 --rows 88 --warmup 2 --steps 6
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro

from bench.common import report
from bench.size.message_costs import command
from bench.size.step_model import Costs, Exchange, said_seconds, step_seconds
from ldlva_dist import storage
from ldlva_dist.config import ModelConfig, RunConfig, to_json
from ldlva_dist.config.presets import demo
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.graph import build_graph
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES
from testing.hosts.cluster import ADDRESSES, BUCKET, FACES, WORKERS, HostCluster, host_cluster
from testing.local_packing import pack_here

TRAIN = 1024
WITHIN, LOSS = 0.2, 0.01
SHARES = {"demo": ("slow", 0.4), "resnet18": ("1 ms", 0.9)}
"""By network: a line, and the goal of the hosts' steps a second behind it, of one host's."""
STREAM_CPUS = 0.25
"""Of a rank; another such share of its host is left to the bank."""
RUN_LIMIT_S = 900.0
MEETING_PORT = 29555

PIXELS = {"demo": 48, "resnet18": 112}

Run = Callable[[RunConfig], dict[str, Any]]
"""Makes a run, and gives the figures of its rank 0."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured."""

    network: Literal["demo", "resnet18"] = "demo"
    ranks: int = 3
    """Of the run that is predicted."""
    rows: int = 16
    """Of each rank in a step."""
    delay_ms: float = 25.0
    """From one host to another, one way."""
    warmup: int = 80
    """First steps of each run, which do not count."""
    steps: int = 100
    """Counted and timed in each run, after the first ones."""
    hosts: bool = False
    """Train on hosts behind slow lines, and compare."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The way from one host to another."""

    delay_ms: float
    """One way."""
    loss: float = 0.0
    """Share of the frames."""


def main(arguments: Arguments) -> None:
    """Count, measure, predict, and compare; one JSON line."""
    with tempfile.TemporaryDirectory(prefix="traffic-") as name:
        folder = Path(name)
        draw_faces(folder / "faces", PIXELS[arguments.network])
        measure = measure_on_hosts if arguments.hosts else measure_here
        report("traffic", **vars(arguments), **measure(folder, arguments))


def measure_here(folder: Path, arguments: Arguments) -> dict[str, Any]:
    """Figures of this machine, and what follows for others."""
    run = partial(run_here, folder, arguments)
    place = str(folder / "faces"), str(folder)
    exchanges, costs = measure_parts(run, place, arguments, message_costs_here(folder))
    figures: dict[str, Any] = {"ok": True, "exchanges": [vars(each) for each in exchanges], "costs": vars(costs)}
    for delay_ms in (0.05, 1.0, arguments.delay_ms):
        figures[f"steps_per_s_at_{delay_ms:g}_ms"] = {
            str(2**power): 1 / step_seconds(exchanges, costs, ranks=2**power, delay_s=delay_ms / 1000)
            for power in range(1, 11)
        }
    return figures


def measure_on_hosts(folder: Path, arguments: Arguments) -> dict[str, Any]:
    """Figures of one host and of several, and what the model says of them."""
    ranks, names = arguments.ranks, WORKERS[: arguments.ranks]
    slow = Line(delay_ms=arguments.delay_ms)
    lines = {"1 ms": Line(delay_ms=1.0)}
    if arguments.network == "demo":
        lines |= {"slow": slow, "slow and lossy": replace(slow, loss=LOSS)}
    cpus: dict[str, int] = dict.fromkeys(names, ranks)
    no_delay: dict[str, float] = dict.fromkeys(names, 0.0)
    measured: dict[str, Any] = {}
    with host_cluster(folder / "hosts", cpus=cpus, delays_ms=no_delay) as hosts:
        hosts.upload(folder / "faces")
        hosts.start_nodes("head", *names)
        run, place = partial(run_on_hosts, hosts, arguments), (FACES, f"{BUCKET}/runs")
        exchanges, costs = measure_parts(run, place, arguments, message_costs(hosts, names[:1] * ranks))
        costs_apart = replace(costs, **message_costs(hosts, names))
        together = run_config(arguments, *place, "one-host", ranks=ranks)
        measured["one host"] = run(together)
        apart = replace(together.placement, cpus_per_worker=ranks - 2 * STREAM_CPUS)
        for line, shape in lines.items():
            for name in names:  # a frame passes two of them
                hosts.hosts[name].change_line(shape.delay_ms / 2, shape.loss / 2)
            measured[line] = run(replace(together, name=line.replace(" ", "-"), placement=apart))
            print({name: f"{1 / figures['step_s']:.2f} steps/s" for name, figures in measured.items()}, flush=True)
            for name in names:
                hosts.hosts[name].change_line(0.0, 0.0)
    # Of all ranks on the cores that they share, without what they wait for even there.
    work_s = measured["one host"]["step_s"] - said_seconds(exchanges, costs, ranks=ranks, delay_s=0.0)
    shared = replace(costs_apart, step_s=work_s)
    predicted_s = {
        line: step_seconds(exchanges, shared, ranks=ranks, delay_s=shape.delay_ms / 1000)
        for line, shape in lines.items()
    }
    ratios = {line: measured[line]["step_s"] / seconds for line, seconds in predicted_s.items()}
    shares = {line: measured["one host"]["step_s"] / measured[line]["step_s"] for line in lines}
    line, goal = SHARES[arguments.network]
    return {
        "ok": shares[line] >= goal and (arguments.network != "demo" or abs(ratios[line] - 1) <= WITHIN),
        "exchanges": [vars(each) for each in exchanges],
        "costs": vars(costs),
        "costs_apart": vars(shared),
        "predicted_steps_per_s": {line: 1 / seconds for line, seconds in predicted_s.items()},
        "measured_steps_per_s": {line: 1 / figures["step_s"] for line, figures in measured.items()},
        "predicted_to_measured": ratios,
        "share_of_one_host": shares,
        "mean_steps_per_s": {line: 1 / figures["mean_step_s"] for line, figures in measured.items()},
        "host_of_rank_0_per_step": {
            line: {name: number for name, number in figures.items() if name.startswith(("bytes_", "packets_"))}
            for line, figures in measured.items()
        },
    }


def measure_parts(
    run: Run, place: tuple[str, str], arguments: Arguments, timed: dict[str, float]
) -> tuple[list[Exchange], Costs]:
    """What two ranks say to each other, and the model's parameters.

    Args:
        run: Makes a run.
        place: Of the data set and the runs.
        arguments: Which runs.
        timed: What messages cost.
    """
    counted, alone = (run(run_config(arguments, *place, f"of-{ranks}", ranks=ranks)) for ranks in (2, 1))
    costs = Costs(step_s=alone["step_s"], actor_call_s=alone["actor_call_s"], **timed)
    return [Exchange(**each) for each in counted["exchanges"]], costs


def message_costs_here(folder: Path) -> dict[str, float]:
    """What messages cost between two processes of this machine."""
    commands = [command(rank, 2, f"file://{folder}/meet") for rank in range(2)]
    started = [subprocess.Popen([sys.executable, *each[1:]], stdout=subprocess.PIPE) for each in commands]
    return _said_by_first(started)


def message_costs(hosts: HostCluster, names: Sequence[str]) -> dict[str, float]:
    """What messages cost between ranks on these hosts, one for each name."""
    meet, environment = f"tcp://{ADDRESSES[names[0]]}:{MEETING_PORT}", hosts.environment(GLOO_SOCKET_IFNAME="eth0")
    commands = [command(rank, len(names), meet) for rank in range(len(names))]
    each = zip(names, commands, strict=True)
    return _said_by_first([hosts.hosts[name].popen(one, environment, subprocess.PIPE) for name, one in each])


def _said_by_first(processes: list[subprocess.Popen[bytes]]) -> dict[str, float]:
    """The line of JSON that the first rank prints last."""
    said = [process.communicate(timeout=RUN_LIMIT_S)[0].decode() for process in processes]
    assert not any(process.returncode for process in processes), said
    return json.loads(said[0].splitlines()[-1])


def run_config(arguments: Arguments, dataset: str, storage_path: str, name: str, *, ranks: int) -> RunConfig:
    """The network, with a few faces a rank, without evaluations and checkpoints on the way."""
    config, rows = demo(), ranks * arguments.rows
    if arguments.network == "resnet18":
        config = replace(config, model=ModelConfig(name="resnet18"))
        config = replace(config, data=replace(config.data, image_size=PIXELS["resnet18"], channels=3))
    return replace(
        config,
        name=name,
        storage_path=storage_path,
        data=replace(config.data, dataset=dataset, batch_size=rows),
        loss=replace(config.loss, warmup_epochs=0.0),
        training=replace(
            config.training,
            epochs=(arguments.warmup + arguments.steps + 1) * rows / TRAIN,
            evaluate_every_epochs=999.0,
            tracker="none",
        ),
        placement=replace(config.placement, num_workers=ranks, cpus_per_worker=0.5, data_cpus_per_worker=STREAM_CPUS),
    )


def draw_faces(folder: Path, pixels: int) -> None:
    """Pack 1,024 drawn faces in this process, all for training, with their graph."""
    source = FacesSource(train=TRAIN, test=0, pixels=pixels, flip_share=0.3, seed=0)
    pack_here(source, folder, PackSettings(name="faces", class_names=REFERENCE_CLASSES, holdout=0.0))
    build_graph(Dataset.open(str(folder)))


def run_here(folder: Path, arguments: Arguments, config: RunConfig) -> dict[str, Any]:
    """What :mod:`bench.size.counted_run` writes of a run on this machine."""
    settings, result = folder / f"{config.name}-settings.json", folder / f"{config.name}.json"
    settings.write_text(to_json(config))
    command = [sys.executable, "-m", "bench.size.counted_run", *counted_options(arguments, str(settings), str(result))]
    subprocess.run(command, check=True, timeout=RUN_LIMIT_S, stdout=subprocess.DEVNULL)
    return json.loads(result.read_text())


def run_on_hosts(hosts: HostCluster, arguments: Arguments, config: RunConfig) -> dict[str, Any]:
    """What :mod:`bench.size.counted_run` writes of a run on hosts."""
    result = f"{BUCKET}/{config.name}.json"
    options = counted_options(arguments, hosts.write_settings(config), result)
    job = hosts.submit(config.name, ["python", "-m", "bench.size.counted_run", *options])
    code = job.wait(RUN_LIMIT_S)
    assert code == 0, job.said[-3000:]
    hosts.orphans()
    with hosts.hosts["client"].network():
        return json.loads(storage.read_bytes(result))


def counted_options(arguments: Arguments, job: str, result: str) -> list[str]:
    """Of :mod:`bench.size.counted_run`."""
    return ["--job", job, "--result", result, "--warmup", str(arguments.warmup), "--steps", str(arguments.steps)]


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
