"""One cell of an experiment: an arm with a seed is a run, named by its settings, and what its last epoch is worth."""

import dataclasses
import hashlib
import json
import time
from dataclasses import replace
from typing import Any

from ldlva_dist import launch, readiness
from ldlva_dist.config import RunConfig
from ldlva_dist.data import storage
from ldlva_dist.scoring import score
from ldlva_dist.training.loop import run_uri

FILE = "cell.json"
REFERENCES = ("truth", "votes", "given")
"""What the test split is judged against: the first that it has. For clean labels given is the truth."""
NOT_LEARNT_FROM = ("name", "storage_path", *readiness.CHANGEABLE)


def named(config: RunConfig, content_hash: str) -> RunConfig:
    """The run under a name of its recipe, its seed, and a hash of its data and all settings that it learns from.

    Of the data counts what is in it (``content_hash``), not where it lies.
    """
    everything = readiness.flat(dataclasses.asdict(config)) | {"data.dataset": content_hash}
    values = {name: value for name, value in everything.items() if not name.startswith(NOT_LEARNT_FROM)}
    digest = hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=5).hexdigest()
    return replace(config, name=f"{config.loss.recipe}-{digest}-seed-{config.training.seed}")


def finished(config: RunConfig) -> dict[str, float] | None:
    """The figures of a cell that was run to its end, or None."""
    uri = storage.join(run_uri(config), FILE)
    return json.loads(storage.read_bytes(uri)) if storage.exists(uri) else None


def finish(config: RunConfig) -> dict[str, float]:
    """Train a cell to its end, from where it was interrupted, and judge its last epoch on the test split."""
    began = time.monotonic()
    done = launch.fit(config)
    evaluation = score(done.checkpoint_uri, config.data.dataset, predict_training=True)
    found = figures(evaluation)
    if "holdout_accuracy" in done.metrics:
        found["holdout_accuracy"] = done.metrics["holdout_accuracy"]
    found["seconds"] = time.monotonic() - began
    for name, content in (("evaluation.json", evaluation), (FILE, found)):
        storage.write_bytes(storage.join(run_uri(config), name), (json.dumps(content, indent=2) + "\n").encode())
    return found


def figures(evaluation: dict[str, Any]) -> dict[str, float]:
    """What is compared, out of ``scoring.score``'s answer; only what there is."""
    judged = next(evaluation[name] for name in REFERENCES if name in evaluation)
    found = {name: judged.get(name) for name in ("accuracy", "kl", "chebyshev")}
    for name, values in evaluation.get("noise", {}).items():
        if name in ("uncertainty", "one_minus_p_label"):
            found |= {f"{measure}_{name}": values[measure] for measure in ("auroc", "average_precision")}
    return {name: float(value) for name, value in found.items() if value is not None}
