"""The main job on a laptop: draw faces, flip 30 % of their labels, search the label posterior and cross-entropy alike.

The label posterior is the recipe of ours that does best where labels are flipped. Both get the same number of trials of
the same sweep, chosen by accuracy on the given labels of a holdout; truth is read only at the end. Leaves OUTPUT/:
summary.json, curves.png, uncertain.png, and every run.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from ldlva_dist.commands.training.sweep import print_result
from ldlva_dist.config import RunConfig
from ldlva_dist.config.presets import demo
from ldlva_dist.experiments.arms import PLAIN, POSTERIOR, POSTERIOR_NEIGHBORS, SIDES
from ldlva_dist.records.console import say
from ldlva_dist.reporting.tables import print_comparison, print_trials
from ldlva_dist.values.settings import Count, Range, Share, check_options

if TYPE_CHECKING:
    from ldlva_dist.checkpoint.checkpoint import Checkpoint
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.reporting.contact_sheet import DoubtfulFace
    from ldlva_dist.run.sweep import SweepResult


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """What the demo draws, and where it leaves everything."""

    output: str = "runs/demo"
    dataset: str = "datasets/demo"
    """Drawn on the first call, kept for the next."""
    seed: Annotated[int, Range(ge=0, lt=2**32)] = 0
    train: Count = 3000
    """Faces drawn for training and holdout."""
    test: Count = 4000
    """Faces drawn for testing: with 1,000 the standard error of one accuracy is .013, with 4,000 half of that."""
    flip_share: Share = 0.3
    """Share of the training labels that are replaced by another class."""
    trials: Count = 3
    """Trials of each of the two sweeps."""
    sheet: Count = 32
    """Faces on the sheet of the most uncertain."""

    def __post_init__(self) -> None:
        check_options(self)


def run_demo() -> None:
    """Draw, search twice, judge, show."""
    arguments = tyro.cli(DemoArguments, description=__doc__)
    began = time.monotonic()

    from ldlva_dist import storage
    from ldlva_dist.run.preload import preload_training
    from ldlva_dist.runtime.connect import connect

    base = demo()
    connect(partial(preload_training, base, trials=True), trials=True)
    dataset = prepare_faces(arguments)
    base = replace(
        base,
        storage_path=arguments.output,
        data=replace(base.data, dataset=arguments.dataset),
        training=replace(base.training, seed=arguments.seed),
        sweep=replace(base.sweep, num_samples=arguments.trials),
    )
    posterior = replace(base, sweep=replace(base.sweep, num_neighbors=(POSTERIOR_NEIGHBORS,)))
    ours = search(replace(SIDES[POSTERIOR](posterior), name="posterior"))
    plain = search(replace(SIDES[PLAIN](base), name="ce"))
    scores = {name: judge(found) for name, found in (("posterior", ours), ("ce", plain))}
    show(arguments, dataset, ours, plain)
    print_comparison({POSTERIOR: scores["posterior"], PLAIN: scores["ce"]})
    summary = summarize(scores, ours.best) | {"seconds": round(time.monotonic() - began, 1)}
    uri = storage.join(arguments.output, "summary.json")
    storage.write_bytes(uri, (json.dumps(summary, indent=2) + "\n").encode())
    say(f"look at {arguments.output}/uncertain.png and {arguments.output}/curves.png")
    say(f"demo finished in {summary['seconds']:.0f} s: {uri}")


def prepare_faces(arguments: DemoArguments) -> "Dataset":
    """Draw and pack the faces and build their neighbour graph, unless an earlier demo did."""
    from ldlva_dist import storage
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.dataset.manifest import DATASET
    from ldlva_dist.index.graph import build_graph
    from ldlva_dist.packing.passes.pack import pack
    from ldlva_dist.packing.passes.settings import PackSettings
    from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource
    from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES

    if not storage.exists(storage.join(arguments.dataset, DATASET)):
        say(f"drawing {arguments.train + arguments.test} faces, {arguments.flip_share:.0%} of the labels flipped")
        source = FacesSource(
            train=arguments.train,
            test=arguments.test,
            pixels=demo().data.image_size,
            flip_share=arguments.flip_share,
            seed=arguments.seed,
        )
        pack(
            source,
            arguments.dataset,
            PackSettings(name="demo", class_names=REFERENCE_CLASSES, seed=arguments.seed),
        )
    dataset = Dataset.open(arguments.dataset)
    build_graph(dataset)
    rows = ", ".join(f"{split.rows} {name}" for name, split in dataset.info.splits.items())
    say(f"data set {arguments.dataset}: {rows}; neighbour graph built once for all trials")
    return dataset


def search(config: RunConfig) -> "SweepResult":
    """One sweep; its best trial that ran to the end is a whole run, judged as it is."""
    from ldlva_dist.run.sweep import sweep

    say(f"sweep {config.name}: {config.sweep.num_samples} trials, {config.placement.max_workers} workers each")
    result = sweep(config, on_result=print_result)
    print_trials(result.trials)
    return result


def judge(found: "SweepResult") -> dict[str, Any]:
    """Score the best trial's last checkpoint on the test split, against the truth."""
    from ldlva_dist.analysis.scoring import score
    from ldlva_dist.checkpoint.checkpoint import Checkpoint
    from ldlva_dist.checkpoint.evaluation_file import write_evaluation
    from ldlva_dist.dataset.dataset import Dataset

    checkpoint = Checkpoint.newest(found.best_run_uri)
    assert checkpoint is not None, "a finished trial has a checkpoint"
    result = score(checkpoint, Dataset.open(checkpoint.config.data.dataset))
    write_evaluation(found.best_run_uri, result)
    return result


def show(arguments: DemoArguments, dataset: "Dataset", ours: "SweepResult", plain: "SweepResult") -> None:
    """Draw the curves of both best runs, and the faces whose labels ours trusts least."""
    from ldlva_dist import storage
    from ldlva_dist.checkpoint.checkpoint import Checkpoint
    from ldlva_dist.records.metrics_log import read_metrics
    from ldlva_dist.reporting.contact_sheet import draw_contact_sheet
    from ldlva_dist.reporting.curves import draw_curves

    curves = {POSTERIOR: read_metrics(ours.best_run_uri), PLAIN: read_metrics(plain.best_run_uri)}
    draw_curves(curves, storage.join(arguments.output, "curves.png"), title="The two best runs")
    checkpoint = Checkpoint.newest(ours.best_run_uri)
    assert checkpoint is not None, "a finished trial has a checkpoint"
    draw_contact_sheet(
        most_uncertain(checkpoint, dataset, arguments.sheet),
        dataset.info.class_names,
        storage.join(arguments.output, "uncertain.png"),
        title=f"The {arguments.sheet} faces whose labels are trusted least",
    )


def most_uncertain(checkpoint: "Checkpoint", dataset: "Dataset", count: int) -> "Sequence[DoubtfulFace]":
    """The training samples of the highest uncertainty, with what is known of them."""
    from ldlva_dist.analysis.trained_run import TrainedRun
    from ldlva_dist.dataset.images import decode
    from ldlva_dist.reporting.contact_sheet import DoubtfulFace

    trained = TrainedRun(checkpoint, dataset)
    uncertainty_N = trained.uncertainty_N
    ids_n = np.argsort(-uncertainty_N, kind="stable")[:count]
    by_id_n = np.sort(ids_n)
    opinions = dict(zip(by_id_n.tolist(), trained.opinions(by_id_n).aggregated_nC, strict=True))
    images = dataset.images(ids_n)
    rows = dataset.columns(["label", "true_distribution"], rows=dataset.info.num_train)
    return [
        DoubtfulFace(
            sample=sample,
            image=decode(images.read(sample), 3),
            given=rows["label"][sample].as_py(),
            opinion=opinions[sample],
            uncertainty=float(uncertainty_N[sample]),
            truth=np.asarray(rows["true_distribution"][sample].as_py()),
        )
        for sample in ids_n.tolist()
    ]


def summarize(scores: dict[str, dict[str, Any]], best: RunConfig) -> dict[str, Any]:
    """The keys of summary.json."""
    from ldlva_dist.run.paths import with_absolute_paths

    figures = {
        name: {"accuracy": result["truth"]["accuracy"], "kl": result["truth"]["kl"]} for name, result in scores.items()
    }
    noise = scores["posterior"]["noise"]
    return figures | {
        "noise_auroc": noise["uncertainty"]["auroc"],
        "noise_auroc_bayes": noise["bayes"]["auroc"],
        "best_config": asdict(with_absolute_paths(best)),
    }
