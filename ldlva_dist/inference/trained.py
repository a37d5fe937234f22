"""The network of a run, taken out of a checkpoint."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safetensors.torch import save

from ldlva_dist import storage
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.evaluation_file import EVALUATION
from ldlva_dist.checkpoint.state_file import STATE
from ldlva_dist.config import RunConfig
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.inference.description import Description
from ldlva_dist.inference.face_model import Portable, is_exported, read_exported
from ldlva_dist.models.classifier import PARTS
from ldlva_dist.values.typed_json import Count, Text, build_dataclass, parse_object

SHAPING = ("model", "loss", "optim")
"""Sections of the settings that say how a network was trained."""
OF_NEIGHBORS = ("index", "neighbors", "uncertainty")


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What of a checkpoint's ``state.json`` goes with its network."""

    step: Count
    class_names: tuple[Text, ...]
    content_hash: Text
    num_train: Count
    metrics: Mapping[str, Any] = field(default_factory=dict)


def read_model(uri: str) -> Portable:
    """The network of a run (its last checkpoint), of one checkpoint, or of an exported folder.

    Raises:
        SettingError: where there is none of them.
        DataError: for a damaged one.
    """
    if is_exported(uri):
        return read_exported(uri)
    checkpoint = Checkpoint.newest(uri)
    if checkpoint is None:
        raise SettingError(
            "the model must be a run with a finished checkpoint, a checkpoint, or a folder that jobs/export.py wrote, "
            f"got {uri!r}"
        )
    return _read_checkpoint(uri, checkpoint)


def _read_checkpoint(uri: str, checkpoint: Checkpoint) -> Portable:
    config, weights, known = checkpoint.config, checkpoint.read_weights(), checkpoint.facts
    wanted = {field.name for field in dataclasses.fields(NetworkFacts)}
    facts = build_dataclass(
        NetworkFacts, {name: known[name] for name in wanted & known.keys()}, storage.join(checkpoint.uri, STATE)
    )
    kept = {name: values for name, values in weights.items() if name.startswith(PARTS)}
    if "classifier.weight" not in kept or kept["classifier.weight"].dim() != 2:
        raise DataError(f"{checkpoint.uri} does not hold the weights of a network that tells classes apart")
    description = {
        "name": config.name,
        "backbone": config.model.name,
        "width": config.model.width,
        "stem": config.model.stem,
        "channels": config.data.channels,
        "image_size": config.data.image_size,
        "resize": config.data.resize,
        "feature_width": kept["classifier.weight"].shape[1],
        "class_names": list(facts.class_names),
        "data": {
            "dataset": config.data.dataset.rstrip("/").rpartition("/")[2],
            "content_hash": facts.content_hash,
            "num_train": facts.num_train,
        },
        "training": _training(config, facts.step),
        "figures": _figures(uri, checkpoint, facts),
    }
    return Portable(description=build_dataclass(Description, description, checkpoint.uri), weights=save(kept))


def _training(config: RunConfig, steps: int) -> dict[str, Any]:
    whole = dataclasses.asdict(config)
    whole["model"]["pretrained"] = (config.model.pretrained or "").rpartition("/")[2] or None  # nobody else's paths
    return {
        "steps": steps,
        "epochs": config.training.epochs,
        "batch_size": config.data.batch_size,
        "precision": config.training.precision,
        "seed": config.training.seed,
        **{section: whole[section] for section in SHAPING + OF_NEIGHBORS * config.uses_neighbors},
    }


def _figures(uri: str, checkpoint: Checkpoint, facts: NetworkFacts) -> dict[str, Any]:
    """What was measured of this very checkpoint."""
    figures = {"holdout_accuracy": facts.metrics.get("holdout_accuracy")}
    run, _, name = checkpoint.uri.rpartition("/")
    for folder in (uri, run):
        place = storage.join(folder, EVALUATION)
        if storage.exists(place):
            found = parse_object(storage.read_bytes(place), place)
            if {"steps": facts.step, "weights_crc32": checkpoint.weights_crc32}.items() <= found.items():
                return figures | {"evaluation": {**found, "checkpoint": name}}
    return figures
