"""What mutations.py damages: kinds of files, who reads them, and the jobs that meet them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load

from bench.faults.mutators import Mutator, damage_array, damage_bytes, damage_json, damage_lines, damage_parquet
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config import from_json, to_json
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest_checks import check_manifest
from ldlva_dist.errors import DataError
from ldlva_dist.index.graph import read_graph
from ldlva_dist.index.verify_graph import check_part, graphs_of
from ldlva_dist.inference.trained import read_model
from ldlva_dist.packing.verify_shards import check_shard
from ldlva_dist.records.metrics_log import read_metrics

TRAIN, TEST, K, BATCH = 270, 60, 32, 27
"""Of the data set and the run."""
STEPS = 2 * TRAIN // BATCH
Read = Callable[[Path], Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Files of one kind, the ways to damage them, who reads them, and the jobs that meet them."""

    files: Sequence[str]
    """Patterns below the home."""
    mutators: Sequence[Mutator]
    read: Read
    """Everything that is read of them, as plain values."""
    jobs: Sequence[str]
    """Names of JOBS."""
    as_written: bool = False
    """The reader owes what the file says, as there is nothing to compare it with."""


def read_dataset(home: Path) -> Any:
    """What training reads of the data set after all checks of ``verify``: rows, graph, images by their checksums."""
    dataset = Dataset.open(str(home / "set"))
    info = dataset.info
    dataset.require_root()
    graphs, findings = graphs_of(dataset)
    findings += check_manifest(dataset, keys=True)
    for number in range(len(info.shards)):
        findings += check_shard(dataset, number)
    for folder, graph in graphs if not findings else []:
        for part in range(graph.num_parts):
            findings += check_part(dataset, folder, graph, part)
    if findings:
        raise DataError("; ".join(findings))
    columns = ["id", "key", "shard", "offset", "size", "checksum", "label", "valence", "arousal"]
    ids, squared = read_graph(dataset, 0, info.num_train, K)
    return [
        info.class_names,
        info.num_train,
        [asdict(shard) for shard in info.shards],
        info.va_transform,
        dataset.columns(columns).to_pydict(),
        ids.tolist(),
        squared.tolist(),
    ]


def read_checkpoint(home: Path) -> Any:
    """Facts, settings, weights, optimiser, uncertainties and bank files of the run's last checkpoint."""
    uri = str(next(iter(home.glob("run/step-*"))))
    saved = Checkpoint.open(uri)
    info = Dataset.open(str(home / "set")).info
    saved.require_data_set(info)
    for name in saved.names():
        saved.check(name)
    weights = {name: values.numpy().tobytes() for name, values in saved.read_weights().items()}
    moments = {name: values.tobytes() for name, values in load(saved.read("optimizer.safetensors")).items()}
    names = ("step", "class_names", "content_hash", "num_train", "plan_version")
    logits = saved.read_logits(info.num_train).tolist()
    return [{name: saved.facts[name] for name in names}, to_json(saved.config), weights, moments, logits]


def read_settings(home: Path) -> Any:
    """The settings' values whose names stand in the file, and what the file says of them."""
    text = (home / "settings.json").read_bytes()
    return _agreement(json.loads(to_json(from_json(text))), json.loads(text))


def read_log(home: Path) -> Any:
    """The lines of a run's log, and what the file says: all its lines but an unfinished last one."""
    found = read_metrics(str(home / "run"))
    text = (home / "run" / "metrics.jsonl").read_bytes()
    return [found, [json.loads(line) for line in text.split(b"\n")[:-1]]]


def read_exported(home: Path) -> Any:
    """The exported network as it answers, and what ``model.json`` says of it."""
    portable = read_model(str(home / "exported"))
    model = portable.build()
    written = json.loads((home / "exported" / "model.json").read_bytes())
    side, channels = portable.description.image_size, portable.description.channels
    answers = model(
        np.arange(side * side * channels, dtype=np.uint32).astype(np.uint8).reshape(1, side, side, channels)
    )
    assert np.isfinite(answers.probs_nC).all()
    return _agreement(json.loads(portable.description.to_json()), written)


def read_weights_file(home: Path) -> Any:
    """What the exported network answers."""
    model = read_model(str(home / "exported")).build()
    side, channels = model.description.image_size, model.description.channels
    return model(np.zeros((1, side, side, channels), np.uint8)).probs_nC.tolist()


KINDS = {
    "manifest": Kind(
        files=["set/manifest.parquet"],
        mutators=[damage_bytes, damage_parquet, damage_parquet],
        read=read_dataset,
        jobs=["verify", "train"],
    ),
    "dataset.json": Kind(
        files=["set/dataset.json"],
        mutators=[damage_bytes, damage_json, damage_json, damage_json],
        read=read_dataset,
        jobs=["verify", "train"],
    ),
    "graph": Kind(
        files=["set/graph-K32/*"],
        mutators=[damage_bytes],
        read=read_dataset,
        jobs=["verify"],
    ),
    "graph cells": Kind(
        files=["set/graph-K32/*.npy"],
        mutators=[damage_array],
        read=read_dataset,
        jobs=["verify"],
    ),
    "shard": Kind(files=["set/*.tar"], mutators=[damage_bytes], read=read_dataset, jobs=["verify", "train"]),
    "checkpoint": Kind(
        files=["run/step-*/*", "run/step-*/table/*", "run/step-*/bank/*"],
        mutators=[damage_bytes],
        read=read_checkpoint,
        jobs=["resume", "evaluate"],
    ),
    "state.json": Kind(
        files=["run/step-*/state.json"],
        mutators=[damage_json],
        read=read_checkpoint,
        jobs=["resume", "evaluate"],
    ),
    "settings": Kind(
        files=["settings.json"],
        mutators=[damage_bytes, damage_json, damage_json, damage_json],
        read=read_settings,
        jobs=["plan"],
        as_written=True,
    ),
    "metrics": Kind(
        files=["run/metrics.jsonl"],
        mutators=[damage_bytes, damage_lines],
        read=read_log,
        jobs=["resume", "report"],
        as_written=True,
    ),
    "model.json": Kind(
        files=["exported/model.json"],
        mutators=[damage_bytes, damage_json, damage_json],
        read=read_exported,
        jobs=["predict"],
        as_written=True,
    ),
    "weights": Kind(
        files=["exported/model.safetensors"],
        mutators=[damage_bytes],
        read=read_weights_file,
        jobs=["predict"],
    ),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A whole job over the damaged home, and what of its outcome must be as without the damage."""

    command: Sequence[str]
    outcome: Read


def _losses(home: Path, run: str, first: int = -1) -> Any:
    return [line["loss"] for line in read_metrics(str(home / run)) if line.get("step", -1) > first and "loss" in line]


def _table(path: Path) -> Any:
    """The rows of a parquet file, or of a folder of them."""
    return pq.read_table(path).to_pydict()


JOBS = {
    "verify": Job(command=["make_shards.py", "verify", "HOME/set"], outcome=lambda home: None),
    "train": Job(
        command=["train.py", "--config", "HOME/settings.json", "--name", "anew"],
        outcome=lambda home: _losses(home, "anew"),
    ),
    "resume": Job(
        command=["train.py", "--config", "HOME/settings.json"],
        outcome=lambda home: _losses(home, "run", first=STEPS // 2),
    ),
    "evaluate": Job(
        command=["evaluate.py", "--run", "HOME/run", "--split", "test"],
        outcome=lambda home: json.loads((home / "run" / "evaluation.json").read_text()),
    ),
    "report": Job(
        command=["report.py", "--run", "HOME/run"],
        outcome=lambda home: _table(home / "run" / "uncertainty.parquet"),
    ),
    "plan": Job(command=["plan.py", "--config", "HOME/settings.json", "--no-probe"], outcome=lambda home: None),
    "predict": Job(
        command=["predict.py", "folder", "--model", "HOME/exported", "--images", "HOME/images", "--output", "HOME/out"],
        outcome=lambda home: _table(home / "out" / "predictions"),
    ),
}


def _agreement(found: Any, written: Any) -> list[Any]:
    """The part of ``found`` that ``written`` names, and ``written``; equal where every value is the one written."""
    return [_part_of(found, written), written]


def _part_of(found: Any, written: Any) -> Any:
    if isinstance(found, dict) and isinstance(written, dict):
        return {name: _part_of(found.get(name), value) for name, value in written.items()}
    return found
