"""The paper's experiments, and folds: python jobs/experiment.py noise|ablation|folds --dataset DATASET [...].

`noise` compares sides (plain cross-entropy, label smoothing, other methods, LDLVA, LDLVA without its parts) on labels
of which a share is flipped; `ablation` varies K, delta, gamma and the initial uncertainty, one at a time. All arms have
the same settings, number of learning rates to choose from, epochs and seeds; the last epoch counts
(experiments/protocol.py).
Writes OUTPUT/noise.* or OUTPUT/ablation.*: tables (md, csv, parquet, json) and plots (pdf, png).
`folds` lets every training sample be judged by a network that did not see it: one run on all of them, and K of which
each leaves every Kth sample out. Writes OUTPUT/folds.* (md, csv, json), scores of wrong labels in-sample and
out-of-fold beside each other, and out_of_fold.parquet into the folder of the run on all samples, where jobs/report.py
takes it.
The same command goes on where it was interrupted, and never trains a run twice. Any setting of jobs/train.py can be
given besides, such as --training.epochs 20.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import subcommand
from tyro.constructors import PrimitiveConstructorSpec

from ldlva_dist.config import RunConfig
from ldlva_dist.experiments.arms import SIDES, Arm, NoiseKind, ablation_arms, noise_arms
from ldlva_dist.records.console import say
from ldlva_dist.run.cli import parse_run
from ldlva_dist.run.paths import with_absolute_paths
from ldlva_dist.values.settings import Count, Range, Share, check_options

T = TypeVar("T")


def listed(kind: Callable[[str], T], example: str) -> PrimitiveConstructorSpec[tuple[T, ...]]:
    """Values on the command line with commas between them."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=example,
        instance_from_str=lambda words: tuple(kind(word.strip()) for word in words[0].split(",") if word.strip()),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda values: [",".join(f"{value:g}" if kind is float else str(value) for value in values)],
    )


Numbers = Annotated[tuple[float, ...], listed(float, "X,X,...")]
Names = Annotated[tuple[str, ...], listed(str, "NAME,NAME,...")]


@dataclass(frozen=True, kw_only=True)
class RunsOptions:
    """What all experiments need."""

    dataset: str
    """Folder or s3:// prefix that jobs/make_shards.py wrote, with its graph. Noisy labels are versions of it."""
    output: str = "runs/experiment"
    """Folder or s3:// prefix of this experiment alone; more seeds, levels, sides or values may come to it later."""
    preset: str = "demo"
    """Settings that all arms start from; or --config."""
    config: str | None = None
    """JSON of settings in the preset's place, such as a sweep's best_config.json."""
    max_concurrent: Count = 1
    """Runs side by side; the cluster must hold so many."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions(RunsOptions):
    """What the paper's experiments need."""

    seeds: Count = 3
    learning_rates: Numbers = ()
    """Every arm takes the one of these that is best on the given labels of the holdout. None: the settings' own."""


@dataclass(frozen=True, kw_only=True)
class Noise(ExperimentOptions):
    """Compare sides over the share of flipped labels."""

    levels: Numbers = (0.0, 0.1, 0.2, 0.3)
    """Shares of the labels of train and holdout that are flipped."""
    sides: Names = tuple(SIDES)
    label_smoothing: Share = 0.1
    """Smoothing of the method "label smoothing"."""
    kind: Literal["symmetric", "confusion", "instance", "votes"] = "symmetric"
    """Wrong labels: symmetric, any other class; confusion, what a network takes their class for; instance, another
    class that raters or the truth saw, of ambiguous samples first; votes, one rater's vote (--levels 0,1)."""
    confusion: str | None = None
    """confusion: a CSV (columns given and the classes), or the evaluation.json of a run on the holdout."""

    def common(self) -> dict[str, Any]:
        """What tables do not show."""
        common = {"learning_rates": self.learning_rates, "label_smoothing": self.label_smoothing}
        return common if self.kind == "symmetric" else common | {"kind": self.kind, "confusion": self.confusion}

    def arms(self, config: RunConfig) -> list[Arm]:
        """Every side at every level."""
        kind = NoiseKind(name=self.kind, confusion=self.confusion)
        return noise_arms(config, self.levels, self.sides, self.label_smoothing, kind)


@dataclass(frozen=True, kw_only=True)
class Ablation(ExperimentOptions):
    """Vary one setting of LDLVA after the other."""

    level: Annotated[float, Range(ge=0, lt=1)] = 0.3
    """Share of the labels of train and holdout that are flipped; 0 for a data set with wrong labels of its own."""
    num_neighbors: Numbers = (1, 4, 8, 16, 32)
    """K; the neighbour graph must have as many."""
    kernel_width: Numbers = (0.1, 0.25, 0.5, 1.0)
    """delta."""
    gamma: Numbers = (0.0, 1e-3, 1e-2, 1e-1)
    initial_uncertainty: Numbers = (0.1, 0.25, 0.5, 0.75)

    def common(self) -> dict[str, Any]:
        """What tables do not show."""
        return {"learning_rates": self.learning_rates, "level": self.level}

    def arms(self, config: RunConfig) -> list[Arm]:
        """Every value of every setting."""
        axes = {
            "K": self.num_neighbors,
            "delta": self.kernel_width,
            "gamma": self.gamma,
            "initial uncertainty": self.initial_uncertainty,
        }
        return ablation_arms(config, axes, self.level)


@dataclass(frozen=True, kw_only=True)
class Folds(RunsOptions):
    """Let every training sample be judged by a network that did not see it."""

    num_folds: Count = 5
    """K, at least 2: runs that each leave every Kth sample out."""


def run_experiment() -> None:
    """Parse, connect, run what is missing, write tables and plots."""
    command, settings = parse(sys.argv[1:])
    if isinstance(command, Folds):
        judge_out_of_fold(command, settings)
    else:
        compare_methods(command, settings)


def judge_out_of_fold(command: Folds, settings: RunConfig) -> None:
    """Run the folds that are missing, put together what they say, compare it."""
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.experiments import cells, folds
    from ldlva_dist.experiments.protocol import run_cells
    from ldlva_dist.runtime import placement

    output = settings.storage_path
    facts = cells.learnt_from(settings, Dataset.open(settings.data.dataset).info.content_hash)
    runs = folds.plan_folds(settings, command.num_folds)
    cells.begin_run(output, "folds", facts | {"num_folds": command.num_folds})
    placement.connect(trials=True)
    say(f"folds: {command.num_folds} runs and one on all samples, {settings.training.epochs:g} epochs, in {output}")
    for _ in run_cells([runs.whole, *runs.folds], command.max_concurrent, say):
        pass
    found = folds.compare_sides(runs.whole, folds.join_folds(runs))
    folds.write_folds(output, found)
    say(folds.folds_markdown(found))
    say(f"written: {output}/folds.md, .csv, .json; {runs.whole.uri}/{folds.OUT_OF_FOLD}")


def compare_methods(command: Noise | Ablation, settings: RunConfig) -> None:
    """Run the arms that are missing, write tables and plots."""
    arms = command.arms(settings)

    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.experiments import cells, plots, tables
    from ldlva_dist.experiments.protocol import Protocol, Row, compare_arms
    from ldlva_dist.runtime import placement

    kinds = {
        Noise: ("noise", tables.noise_markdown, plots.draw_noise),
        Ablation: ("ablation", tables.ablation_markdown, plots.draw_ablation),
    }
    name, to_markdown, draw = kinds[type(command)]
    dataset = Dataset.open(settings.data.dataset)  # what is wrong with its address is said before a cluster starts
    protocol = Protocol(
        dataset=settings.data.dataset,
        output=settings.storage_path,
        seeds=command.seeds,
        learning_rates=command.learning_rates,
        max_concurrent=command.max_concurrent,
    )
    cells.begin_run(protocol.output, name, cells.learnt_from(settings, dataset.info.content_hash) | command.common())
    placement.connect(trials=True)
    say(f"{name}: {len(arms)} arms x {command.seeds} seeds, {settings.training.epochs:g} epochs, in {protocol.output}")
    rows: list[Row] = []
    for rows in compare_arms(arms, protocol, say):
        tables.write_tables(protocol.output, name, rows, to_markdown(tables.means(rows)))
    draw(tables.means(rows), protocol.output, name)
    say(to_markdown(tables.means(rows)))
    say(f"written: {protocol.output}/{name}.md, .csv, .parquet, .json, .pdf, .png")


def parse(args: Sequence[str]) -> tuple[Noise | Ablation | Folds, RunConfig]:
    """The experiment, and the settings that all its arms start from, with paths that mean the same on every node."""
    experiments = Annotated[Noise, subcommand("noise")] | Annotated[Ablation, subcommand("ablation")]
    kinds = experiments | Annotated[Folds, subcommand("folds")]
    command, others = tyro.cli(kinds, args=args, description=__doc__, return_unknown_args=True)
    first = ["--config", command.config] if command.config else [command.preset]
    settings = parse_run([*first, *others], description="Settings of all arms.")
    settings = replace(settings, storage_path=command.output, data=replace(settings.data, dataset=command.dataset))
    return command, with_absolute_paths(settings)
