"""The same protocol for every arm: learning rate chosen alike, equal epochs, the last one counts, several seeds.

Where there are several learning rates, each arm trains with each of them once (seed 0) and takes the one with the best
accuracy on the given labels of the holdout, a split cut from the training data. Seeds 1, 2, ... are then judged. Each
seed has flips, shuffles and initial weights of its own, the same for all arms.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray

from ldlva_dist import storage
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.experiments import cells
from ldlva_dist.experiments.arms import Arm
from ldlva_dist.index.graph import copy_graphs, graph_infos, require_graph
from ldlva_dist.index.service import build_graph_by_size
from ldlva_dist.packing.noisy_versions import Control, controlled
from ldlva_dist.run.lease import Holder
from ldlva_dist.run.news import shared_news
from ldlva_dist.runtime import placement
from ldlva_dist.runtime.head_watch import require_head
from ldlva_dist.runtime.waiting import own_errors

SELECTION_SEED, LOOK_S = 0, 0.5
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How arms are compared."""

    dataset: str
    """With labels as they were given: noise is added to versions of it."""
    output: str
    """Every run is kept in OUTPUT/runs, and never run again."""
    seeds: int = 3
    learning_rates: tuple[float, ...] = ()
    """Candidates, the same for every arm; none: the settings' own."""
    max_concurrent: int = 1
    """Runs side by side. One runs in this process, several each in a Ray task of their own."""

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.max_concurrent < 1:
            raise SettingError(f"--seeds and --max-concurrent must be >= 1, got {self.seeds} and {self.max_concurrent}")
        if any(lr <= 0 for lr in self.learning_rates):
            raise SettingError(f"--learning-rates must be > 0, got {min(self.learning_rates):g}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm with one seed, judged."""

    arm: Arm
    seed: int
    config: RunConfig
    figures: Figures


def compare_arms(arms: Sequence[Arm], protocol: Protocol, say: Callable[[str], None]) -> Iterator[list[Row]]:
    """Run whatever is missing, seed by seed; all rows so far, after each cell that is done.

    Raises:
        SettingError: if learning rates are to be chosen on a data set without a holdout, or settings do not fit it.
        RunStopped: if a run was asked to stop; the same call resumes it.
    """
    arms = list(dict.fromkeys(arms))
    rates = {arm: arm.config.optim.lr for arm in arms}
    if len(protocol.learning_rates) > 1:
        if not Dataset.open(protocol.dataset).info.splits["holdout"].rows:
            raise SettingError("--learning-rates needs a holdout to choose on; pack the data set with --holdout > 0")
        trials = [(arm, _cell(arm, SELECTION_SEED, lr, protocol)) for arm in arms for lr in protocol.learning_rates]
        found = dict(run_cells([config for _, config in trials], protocol.max_concurrent, say))
        for arm in arms:
            own = [config for other, config in trials if other == arm]
            rates[arm] = max(own, key=lambda config: found[config.name]["holdout_accuracy"]).optim.lr
            say(f"{arm.group} at {arm.x:g}: learning rate {rates[arm]:g} of {len(own)}")
    elif protocol.learning_rates:
        rates = dict.fromkeys(arms, protocol.learning_rates[0])
    judged = [
        (arm, seed, _cell(arm, seed, rates[arm], protocol)) for seed in range(1, protocol.seeds + 1) for arm in arms
    ]
    done: dict[str, Figures] = {}
    for name, figures in run_cells([config for _, _, config in judged], protocol.max_concurrent, say):
        done[name] = figures
        yield [
            Row(arm=arm, seed=seed, config=config, figures=done[config.name])
            for arm, seed, config in judged
            if config.name in done
        ]


def _cell(arm: Arm, seed: int, lr: float, protocol: Protocol) -> RunConfig:
    """The run of an arm with a seed; its version of the data set, with its graph, is there afterwards."""
    control = Control(noise=arm.noise, shuffle_va=arm.shuffle_va, seed=seed)
    given = Dataset.open(protocol.dataset)
    dataset = controlled(given, control)
    if arm.config.uses_neighbors:
        if dataset != given:
            _provide_graph(given, dataset, arm)
        require_graph(dataset, arm.config.neighbors.num_neighbors)
    config = replace(
        arm.config,
        storage_path=storage.join(protocol.output, "runs"),
        data=replace(arm.config.data, dataset=dataset.uri),
        optim=replace(arm.config.optim, lr=lr),
        training=replace(arm.config.training, seed=seed, num_to_keep=1),
    )
    return cells.name_run(config, dataset.info.content_hash)


def _provide_graph(dataset: Dataset, version: Dataset, arm: Arm) -> None:
    """Flipped labels leave the neighbours as they are; shuffled points have others."""
    k = arm.config.neighbors.num_neighbors
    if not arm.shuffle_va:
        copy_graphs(dataset, version)
    elif not any(info.num_neighbors >= k for _, info in graph_infos(version.uri)):
        reserved = arm.config.placement
        place = partial(placement.index_place, reserved)
        build_graph_by_size(version, k, on_gpu=reserved.gpus_per_index > 0, place=place)


def run_cells(
    configs: Sequence[RunConfig], max_concurrent: int, say: Callable[[str], None]
) -> Iterator[tuple[str, Figures]]:
    """(name, figures) of every cell, those first that were finished before; one that stands twice is run once."""
    unique = {config.name: config for config in configs}
    there = {name: figures for name, config in unique.items() if (figures := cells.finished_run(config))}
    yield from there.items()
    missing = {name: config for name, config in unique.items() if name not in there}
    if there:
        say(f"{len(there)} of {len(unique)} runs were finished before")
    run = _one_by_one if max_concurrent == 1 else _side_by_side
    for place, (name, figures) in enumerate(run(missing, max_concurrent), len(there) + 1):
        shown = ", ".join(f"{key} {figures[key]:.3f}" for key in ("accuracy", "kl") if key in figures)
        say(f"[{place}/{len(unique)}] {name}: {shown}, {figures['seconds']:.0f} s")
        yield name, figures


def _one_by_one(configs: Mapping[str, RunConfig], limit: int) -> Iterator[tuple[str, Figures]]:
    for name, config in configs.items():
        yield name, cells.finish_run(config)


def _side_by_side(configs: Mapping[str, RunConfig], limit: int) -> Iterator[tuple[str, Figures]]:
    """Each cell in a task of its own, at most ``limit`` at once; they end with this process, what they did stays.

    A task only launches a run, whose workers ask for their own resources.
    """
    task: Any = ray.remote(cells.finish_run).options(**placement.cell_task())
    waiting, running = list(configs.items()), dict[Any, str]()
    with shared_news() as (control, news):
        while waiting or running:
            while waiting and len(running) < limit:
                name, config = waiting.pop(0)
                running[task.remote(config, Holder.here(), control)] = name
            done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_S)  # how long a run takes is its own affair
            news.show()
            require_head()
            for ref in done:
                with own_errors():
                    figures = ray.get(ref)
                yield running.pop(ref), figures
