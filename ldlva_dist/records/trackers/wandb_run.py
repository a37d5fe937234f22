"""Weights & Biases: one run of the project WANDB_PROJECT (ldlva); WANDB_MODE=offline keeps it in RUN/wandb."""

import os
import uuid
from collections.abc import Mapping
from typing import Any

import wandb  # pyright: ignore[reportMissingImports]

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError
from ldlva_dist.records.trackers import kept_id, numbers

PROJECT = "ldlva"


class WandB:
    """A W&B run. It drops a line of a step that it has already, as its steps only rise."""

    def __init__(self, run_uri: str, settings: Mapping[str, Any]) -> None:
        run_id, _ = kept_id(run_uri, "wandb", lambda: uuid.uuid4().hex[:12])
        folder = None if storage.is_remote(run_uri) else storage.resolve(run_uri)[1]
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=run_id,
                name=settings["name"],
                resume="allow",
                config=dict(settings),
                dir=folder,
            )
        except wandb.Error as error:
            raise ClusterError(f"training.tracker=wandb: W&B could not be reached: {error}") from error

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Hand over one line's numbers; a process of W&B's sends them."""
        self._run.log(numbers(metrics), step=metrics["step"])

    def flush(self) -> None:
        """W&B's process sends lines as they come."""

    def close(self) -> None:
        """Wait until all is sent, and mark the run as finished."""
        self._run.finish()
