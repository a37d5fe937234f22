"""Runs of a tiny network that many tests make, and what they leave behind."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.numpy import load

from ldlva_dist import storage
from ldlva_dist.checkpoint.saved_files import checkpoint_uri, write_saved_file
from ldlva_dist.checkpoint.state_file import write_state
from ldlva_dist.checkpoint.tensors import pack_tensors
from ldlva_dist.config import (
    BankConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    NeighborConfig,
    OptimConfig,
    PlacementConfig,
    RunConfig,
    TrainingConfig,
    UncertaintyConfig,
    to_json,
)
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo, ShardInfo, SplitInfo
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.training.network import build_model


def tiny_run(dataset: str, storage_path: str | Path, name: str) -> RunConfig:
    """Two epochs, twenty steps of 27 of the 270 drawn faces, with a checkpoint after each epoch.

    BatchNorm is frozen and the bank keeps whole floats: a global batch then gives the same on any number of ranks.
    """
    return RunConfig(
        name=name,
        storage_path=str(storage_path),
        data=DataConfig(dataset=dataset, batch_size=27, chunk_rows=16, image_size=48),
        model=ModelConfig(name="resnet10", width=4, stem="small", calibration_hidden=(16, 8), freeze_batchnorm=True),
        loss=LossConfig(recipe="official", gamma=0.05),
        neighbors=NeighborConfig(num_neighbors=4, timeout_s=60),
        bank=BankConfig(num_shards=2, probs_dtype="float32", features_dtype="float32"),
        uncertainty=UncertaintyConfig(lr=0.3125, momentum=0.9),
        optim=OptimConfig(name="sgd", lr=0.01),
        training=TrainingConfig(epochs=2.0, evaluate_every_epochs=1.0, log_every_steps=1, num_to_keep=9),
        placement=PlacementConfig(cpus_per_worker=0.5, data_cpus_per_worker=0.5, max_failures=0),
    )


def long_run(dataset: str, storage_path: str | Path, name: str) -> RunConfig:
    """Six epochs, sixty steps on two ranks, with a checkpoint after every second epoch; BatchNorm trains.

    The recipe is the paper's, whose centres are parameters. A forward pass fills the bank of a new run, and must not be
    made again when it goes on: it would overwrite what the ranks wrote.
    """
    config = tiny_run(dataset, storage_path, name)
    return replace(
        config,
        model=replace(config.model, freeze_batchnorm=False),
        loss=replace(config.loss, recipe="paper"),
        bank=BankConfig(num_shards=3, features_dtype="int8", warm_start="forward"),
        optim=OptimConfig(name="adamw", lr=1e-3),
        training=replace(config.training, epochs=6.0, evaluate_every_epochs=2.0),
        placement=replace(config.placement, num_workers=2),
    )


def random_info(rows: int) -> DatasetInfo:
    """A data set of five classes that exists by its numbers alone, for rows that a test makes up."""
    empty = SplitInfo(first_id=rows, rows=0)
    return DatasetInfo(
        name="random",
        class_names=tuple("abcde"),
        splits={"train": SplitInfo(first_id=0, rows=rows), "holdout": empty, "test": empty},
        shards=(ShardInfo(name="train.tar", split="train", first_id=0, rows=rows, bytes=1),),
        has_valence_arousal=True,
        content_hash="0",
        class_counts={"train": (rows // 5,) * 5},
    )


def losses(run_uri: str) -> list[float]:
    """The loss of every step of a run."""
    return [line["loss"] for line in read_metrics(run_uri)]


def table(uri: str) -> np.ndarray:
    """The uncertainty logits of the checkpoint at ``uri``, [num_train]."""
    folder = storage.join(uri, "table")
    parts = [load(storage.read_bytes(storage.join(folder, name))) for name in storage.list_folder(folder)]
    return np.concatenate([part["logits"] for part in sorted(parts, key=lambda part: part["first_id"].item())])


def untrained_run(
    dataset: str, storage_path: str | Path, name: str = "untrained", recipe: Literal["official", "ce"] = "official"
) -> str:
    """The run folder of :func:`tiny_run` as if it had been trained: one checkpoint of a network with random weights."""
    config, info = tiny_run(dataset, storage_path, name), Dataset.open(dataset).info
    config = replace(config, loss=replace(config.loss, recipe=recipe))
    model = build_model(config, len(info.class_names))
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    model.classifier.weight.data *= 10  # answers that differ from each other
    uri = checkpoint_uri(storage.join(str(storage_path), name), 20)
    contents = {
        "model.safetensors": pack_tensors("weights", model.state_dict()),
        "config.json": to_json(config).encode(),
    }
    facts = {
        "step": 20,
        "class_names": list(info.class_names),
        "content_hash": info.content_hash,
        "rows_hash": info.rows_hash,
        "num_train": info.num_train,
        "metrics": {"holdout_accuracy": 0.625},
    }
    write_state(uri, facts, {file: write_saved_file(uri, file, data) for file, data in contents.items()})
    return storage.join(str(storage_path), name)
