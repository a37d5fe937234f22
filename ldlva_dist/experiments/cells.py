"""One cell of an experiment: an arm with a seed is a run, named by its settings, and what its last epoch is worth."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ldlva_dist import storage
from ldlva_dist.analysis.out_of_fold import LEFT_OUT, write_outputs
from ldlva_dist.analysis.scoring import predict_split, score
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.evaluation_file import write_evaluation
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.run import launch, preflight
from ldlva_dist.run.lease import Holder
from ldlva_dist.run.news import show_through
from ldlva_dist.runtime import unfinished
from ldlva_dist.stream.plan import left_out

FILE = "cell.json"
REFERENCES = ("truth", "votes", "given")
"""Labels that the test split is judged against: the first that it has. For clean labels given is the truth."""
LATER = (
    ("data.resize", "reference"),
    ("data.fold", None),
    ("robust.sop_u_rate", 1 / 128),
    ("robust.sop_v_rate", 10 / 128),
    ("robust.sop_spread", 1e-8),
)
"""Settings, and what they were before they could be chosen: runs of versions without them are the same."""
NOT_LEARNT_FROM = ("name", "storage_path", *preflight.CHANGEABLE)


def name_run(config: RunConfig, content_hash: str) -> RunConfig:
    """The run under a name of its recipe, its seed, and a hash of its data and all settings that it learns from.

    Of the data counts what is in it (``content_hash``), not where it lies.
    """
    values = json.dumps(learnt_from(config, content_hash), sort_keys=True)
    digest = hashlib.blake2b(values.encode(), digest_size=5).hexdigest()
    return replace(config, name=f"{config.loss.recipe}-{digest}-seed-{config.training.seed}")


def learnt_from(config: RunConfig, content_hash: str) -> dict[str, Any]:
    """All settings that a run learns from, by their full names; its data by what is in it."""
    everything = preflight.flat(dataclasses.asdict(config)) | {"data.dataset": content_hash}
    return {
        name: value
        for name, value in everything.items()
        if not name.startswith(NOT_LEARNT_FROM) and (name, value) not in LATER
    }


def begin_run(folder: str, name: str, facts: Mapping[str, Any]) -> None:
    """Remember what all arms of the experiment ``name`` in a folder have in common, or see that they have the same.

    Raises:
        SettingError: for a folder of another experiment, or of anything else.
    """
    uri = storage.join(folder, f"{name}-settings.json")
    if storage.exists(uri):
        if others := unfinished.differing(unfinished.read_facts(uri), facts):
            raise SettingError(
                f"--output must be new for another experiment: {folder} holds one with others ({', '.join(others)})"
            )
        return
    there = storage.list_folder(folder)
    if there and "runs" not in there:  # earlier versions kept no settings
        raise SettingError(f"--output must be new: {folder} is no experiment's folder, it holds {there[0]}")
    storage.write_bytes(uri, (json.dumps(facts, indent=1) + "\n").encode())


def finished_run(config: RunConfig) -> dict[str, float] | None:
    """The figures of a cell that was run to its end, or None."""
    uri = storage.join(config.uri, FILE)
    if not storage.exists(uri):
        return None
    found = unfinished.read_facts(uri)
    if not found or not all(type(value) in (int, float) for value in found.values()):
        raise DataError(f"{uri} is damaged: it must hold the figures of a run; without it the run is judged again")
    return found


def finish_run(config: RunConfig, holder: Holder | None = None, control: Any = None) -> dict[str, float]:
    """Train a cell to its end, from where it was interrupted, and judge its last epoch on the test split.

    A cell that leaves a fold out also keeps what it says of that fold.

    Args:
        config: The cell's run.
        holder: The process that it ends with, if it is not this one.
        control: The :class:`RunControl` actor through which that process shows what the run tells.
    """
    began = time.monotonic()
    if control:
        show_through(control, config.name)
    done, dataset = launch.fit(config, holder=holder), Dataset.open(config.data.dataset)
    evaluation = score(done.checkpoint, dataset, predict_training=True)
    found = figures(evaluation)
    if config.data.fold is not None:
        write_left_out(config, done.checkpoint, dataset)
    if "holdout_accuracy" in done.metrics:
        found["holdout_accuracy"] = done.metrics["holdout_accuracy"]
    found["seconds"] = time.monotonic() - began
    write_evaluation(config.uri, evaluation)
    storage.write_bytes(storage.join(config.uri, FILE), (json.dumps(found, indent=2) + "\n").encode())
    return found


def write_left_out(config: RunConfig, checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Let a finished run say what it thinks of the fold that it left out, and keep it in its folder."""
    rows = left_out(config.data.fold, dataset.info.num_train)
    probs_nC = predict_split(checkpoint, dataset, split="train", num_tasks=1, rows=rows)
    write_outputs(storage.join(config.uri, LEFT_OUT), dataset.info, np.array(rows), probs_nC)


def figures(evaluation: dict[str, Any]) -> dict[str, float]:
    """What is compared, out of ``scoring.score``'s answer; only what there is."""
    judged = next(evaluation[name] for name in REFERENCES if name in evaluation)
    found = {name: judged.get(name) for name in ("accuracy", "mean_class_accuracy", "kl", "chebyshev")}
    for name, values in evaluation.get("noise", {}).items():
        if name in ("uncertainty", "one_minus_p_label", "one_minus_own_average", "sparse_noise"):
            found |= {f"{measure}_{name}": values[measure] for measure in ("auroc", "average_precision")}
    return {name: float(value) for name, value in found.items() if value is not None}
