"""The stages of an audit, in one process and on one cluster; each is passed over where it was done before."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldlva_dist import storage
from ldlva_dist.analysis.label_findings import Findings
from ldlva_dist.analysis.out_of_fold import LEFT_OUT, OUT_OF_FOLD
from ldlva_dist.analysis.scoring import part_to_judge
from ldlva_dist.analysis.suspects import as_issues_table
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.commands.data.build_index import IndexArguments, build
from ldlva_dist.commands.data.make_shards import run_pack
from ldlva_dist.commands.labels.report import ReportArguments, make_report
from ldlva_dist.commands.start.audit_end import AuditEnd, closing_lines
from ldlva_dist.commands.start.audit_request import AuditOptions, AuditRequest, without_placement
from ldlva_dist.commands.training.plan import require_no_problems
from ldlva_dist.config import RunConfig, read_back, to_json
from ldlva_dist.config.by_size import DataSize, MachineSize, choose_settings
from ldlva_dist.config.presets import demo
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import decode
from ldlva_dist.dataset.manifest import DATASET
from ldlva_dist.errors import SettingError
from ldlva_dist.exchange.csv_list import issues_csv
from ldlva_dist.experiments.cells import write_left_out
from ldlva_dist.experiments.folds import FoldRuns, join_folds
from ldlva_dist.forecast.outlook import Outlook, estimate_run
from ldlva_dist.forecast.work import work_of
from ldlva_dist.index.graph import graph_infos
from ldlva_dist.packing.near_copies import find_copy_groups, write_copy_groups
from ldlva_dist.records.console import say
from ldlva_dist.reporting.forecast_table import format_bytes
from ldlva_dist.reporting.metrics_line import format_seconds
from ldlva_dist.reporting.progress_bar import ProgressBar
from ldlva_dist.reporting.terminal import print_lines
from ldlva_dist.run import launch
from ldlva_dist.run.preflight import require_same_settings
from ldlva_dist.run.preload import preload_training
from ldlva_dist.runtime.connect import connect
from ldlva_dist.runtime.placement import count_processors

RUN = "run"
LOOKED_AT = 64
"""Images whose sides and colours say what all are like."""
PROBE_SECONDS, PROBED_SAMPLES = 10.0, 100_000
"""A run over fewer samples is over before a probe has paid."""
GPU_DEVICE = Path("/dev/nvidia0")
END_FILE = "audit.json"
"""Written when all is done."""
BEGUN_FILE = "arguments.json"


@dataclass(frozen=True)
class AuditFolder:
    """Where everything of an audit lies."""

    uri: str

    def at(self, name: str) -> str:
        """Address of a file or folder in it."""
        return storage.join(self.uri, name)

    @property
    def data(self) -> str:
        """The packed data set."""
        return self.at("data")

    @property
    def is_packed(self) -> bool:
        """Whether the data set is there."""
        return storage.exists(storage.join(self.data, DATASET))

    @property
    def run(self) -> str:
        """The trained run."""
        return self.at(RUN)

    def begin(self, arguments: Sequence[str]) -> None:
        """Note what the audit is of; SettingError where another one was begun here, and has packed its data."""
        uri, text = self.at(BEGUN_FILE), (json.dumps(list(arguments), indent=1) + "\n").encode()
        is_there = storage.exists(uri)
        if not is_there and storage.list_folder(self.uri):
            raise SettingError(f"--output must be new, or the folder of an audit, got {self.uri!r}")
        if not is_there or not self.is_packed:
            storage.check_writable(self.uri)
            storage.write_bytes(uri, text)
            return
        begun = json.loads(storage.read_bytes(uri))
        if without_placement(begun) != without_placement(arguments):
            raise SettingError(
                f"--output must be new for other arguments, got {self.uri!r} with an audit that was begun with: "
                f"{' '.join(begun)}"
            )


def run_stages(request: AuditRequest, output: str) -> None:
    """Do what is not done yet, and say what was found.

    Args:
        request: What is asked for.
        output: Folder of the audit.

    Raises:
        LdlvaError: of any stage; what was done before is kept.
    """
    folder = AuditFolder(storage.absolute(output))
    folder.begin(request.arguments)
    if storage.exists(folder.at(END_FILE)):
        print_lines(json.loads(storage.read_bytes(folder.at(END_FILE)))["lines"])
        return
    folds = f"judge {request.options.folds} folds, " if request.options.folds else ""
    say(f"audit in {folder.uri}: pack, look for copies, choose settings, train, {folds}write page and list")
    connect(lambda: None if GPU_DEVICE.exists() else preload_training(demo()))
    dataset = pack_source(request, folder)
    copies = find_copies(dataset, folder) if request.options.duplicates else None
    config = settle_settings(request, dataset, folder)
    provide_neighbors(config, dataset)
    train_audited(config, dataset, request.options)
    if request.options.folds:
        judge_folds(config, dataset, request.options.folds)
    findings = write_page(config, dataset, copies)
    end = AuditEnd(dataset=dataset, findings=findings, copies=copies, folder=folder.uri, run=folder.run)
    suspects = as_issues_table(dataset, findings, end.suspects_n)
    storage.write_bytes(folder.at("suspects.csv"), issues_csv(suspects))
    lines = closing_lines(end)
    storage.write_bytes(folder.at(END_FILE), (json.dumps({"lines": lines} | end.figures(), indent=1) + "\n").encode())
    print_lines(lines)


def pack_source(request: AuditRequest, folder: AuditFolder) -> Dataset:
    """The packed data set."""
    if not folder.is_packed:
        say("packing")
        name = request.source.name or folder.uri.rstrip("/").rpartition("/")[2]
        run_pack(replace(request.source, output=folder.data, name=name))
    return Dataset.open(folder.data)


def find_copies(dataset: Dataset, folder: AuditFolder) -> str:
    """The list of images that are there more than once."""
    uri = folder.at("duplicates.csv")
    if not storage.exists(uri):
        say("looking for copies")
        with ProgressBar() as progress:
            groups = find_copy_groups(dataset, progress)
        write_copy_groups(uri, groups)
    return uri


def settle_settings(request: AuditRequest, dataset: Dataset, folder: AuditFolder) -> RunConfig:
    """The run's settings: those of its first start, or else chosen by size, with what the command line names.

    Only where it runs may change when it resumes: ``--placement.*``.
    """
    uri = folder.at("settings.json")
    cpus, gpus = count_processors()
    machine = MachineSize(cpus=cpus, gpus=gpus)
    size = measure(dataset)
    chosen = choose_settings(size, machine, epochs=request.epochs)
    config = request.override(chosen)
    if storage.exists(uri):
        begun = request.override(read_back(storage.read_bytes(uri), uri))
        say_other_workers(begun, config)
        return begun
    config = replace(config, name=RUN, storage_path=folder.uri, data=replace(config.data, dataset=dataset.uri))
    say(
        f"settings: preset {chosen.name}, for {size.rows:,} images of {size.pixels} px "
        f"({'grey' if size.is_grey else 'colour'}), {len(dataset.info.class_names)} classes, {machine.cpus:g} CPUs and "
        f"{machine.gpus} GPUs: {config.model.name} of width {config.model.width} at {config.data.image_size} px, "
        f"{config.training.epochs:g} epochs, batches of {config.data.batch_size}, "
        f"{config.placement.max_workers} workers"
    )
    storage.write_bytes(uri, to_json(config).encode())
    return config


def say_other_workers(begun: RunConfig, now: RunConfig) -> None:
    """Say that a resumed audit keeps its first workers where the machine suggests others."""
    there, here = begun.placement.max_workers, now.placement.max_workers
    if there != here:
        say(
            f"settings: {there} workers as at the first start; this machine suggests {here}: "
            f"--placement.num-workers {here} takes them"
        )


def measure(dataset: Dataset) -> DataSize:
    """What some images, evenly spaced among those to train on, are like."""
    rows = dataset.info.num_train
    ids_n = np.unique(np.linspace(0, rows - 1, min(LOOKED_AT, rows)).astype(np.int64))
    images = [decode(data, channels=3) for data in dataset.images(ids_n).read_all()]
    return DataSize(
        rows=rows,
        pixels=int(np.median([min(image.shape[:2]) for image in images])),
        is_grey=all((image == image[:, :, :1]).all() for image in images),
        has_valence_arousal=dataset.info.has_valence_arousal,
    )


def provide_neighbors(config: RunConfig, dataset: Dataset) -> None:
    """The graph in the valence-arousal plane, unless it is there, or neighbours are found while the run goes on."""
    k, info = config.neighbors.num_neighbors, dataset.info
    if not info.has_valence_arousal:
        say(
            "neighbours: in the network's own features, because the data have no valence-arousal; found anew every "
            f"{config.index.rebuild_every_epochs:g} epochs, and used from epoch {config.loss.warmup_epochs:g} on"
        )
        return
    there = [graph.num_neighbors for _, graph in graph_infos(dataset.uri) if graph.content_hash == info.content_hash]
    if max(there, default=0) < k:
        how, graph = build(IndexArguments(dataset=dataset.uri))
        say(f"neighbours: in the valence-arousal plane, K {graph.num_neighbors}, {how}")


def train_audited(config: RunConfig, dataset: Dataset, options: AuditOptions) -> None:
    """Say what the run takes, and train it to its end."""
    require_same_settings(config)
    checkpoint = Checkpoint.newest(config.uri)
    if checkpoint and checkpoint.facts["metrics"]["step"] >= checkpoint.facts["metrics"]["steps"]:
        return
    is_long = work_of(config, dataset.info).samples >= PROBED_SAMPLES and checkpoint is None
    probe_seconds = PROBE_SECONDS if options.probe and is_long else None
    outlook = estimate_run(config, dataset, probe_seconds=probe_seconds, tell=say)
    say(f"training: {in_short(outlook, options.folds)}")
    print_lines(f"{problem.sentence}; cure: {problem.cure}" for problem in outlook.problems)
    require_no_problems(outlook.problems)
    with ProgressBar() as progress:
        launch.fit(config, sound=True, on_metrics=partial(show_steps, progress, "training", config.data.batch_size))


def judge_folds(config: RunConfig, dataset: Dataset, num_folds: int) -> None:
    """Let networks that did not see a label judge it; the page finds what they say in the run's folder."""
    if storage.exists(storage.join(config.uri, OUT_OF_FOLD)):
        return
    runs = [fold_settings(config, (fold, num_folds)) for fold in range(num_folds)]
    for place, run in enumerate(runs, 1):
        if storage.exists(storage.join(run.uri, LEFT_OUT)):
            continue
        say(f"fold {place} of {num_folds}: training without it")
        with ProgressBar() as progress:
            show = partial(show_steps, progress, f"fold {place} of {num_folds}", run.data.batch_size)
            done = launch.fit(run, sound=True, on_metrics=show)
        write_left_out(run, done.checkpoint, dataset)
    join_folds(FoldRuns(whole=config, folds=runs))


def fold_settings(config: RunConfig, fold: tuple[int, int]) -> RunConfig:
    """The run that leaves a fold out: as the whole run, or by plain cross-entropy where neighbours need features.

    A sample that is left out has no features for the others to be neighbours by.
    """
    if config.index.space == "feature":
        config = replace(
            config,
            index=replace(config.index, space="va"),
            loss=replace(config.loss, recipe="ce", warmup_epochs=0.0),
        )
    return replace(
        config,
        name=f"fold-{fold[0]}-of-{fold[1]}",
        storage_path=storage.join(config.storage_path, "folds"),
        data=replace(config.data, fold=fold),
        training=replace(config.training, num_to_keep=1),
    )


def in_short(outlook: Outlook, num_folds: int | None) -> str:
    """The size of a run, and of its folds, in one line."""
    took = ""
    if outlook.seconds is not None:
        took = f", {format_seconds(outlook.seconds)} at the speed that was tried"
        took += f" (with {num_folds} folds {format_seconds(outlook.seconds * num_folds)})" if num_folds else ""
    memory = sum(role.together for role in outlook.memory)
    return (
        f"{outlook.work.steps:,} steps, {outlook.work.samples:,} samples{took}; memory {format_bytes(memory)}, "
        f"checkpoints {format_bytes(outlook.most_bytes)}"
    )


def show_steps(progress: Callable[[str, int, int], None], what: str, batch_size: int, metrics: dict[str, Any]) -> None:
    """A line of metrics as progress, in rows."""
    progress(what, metrics["step"] * batch_size, metrics["steps"] * batch_size)


def write_page(config: RunConfig, dataset: Dataset, copies: str | None) -> Findings:
    """The page, with the copies where somebody looked for them, and uncertainty.parquet."""
    say("judging, and writing the page")
    split = None if part_to_judge(dataset.info) else "train"
    findings = make_report(ReportArguments(run=config.uri, split=split, duplicates=copies))
    assert findings is not None, "an audit's run has neighbours"
    return findings
