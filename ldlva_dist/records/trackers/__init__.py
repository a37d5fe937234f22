"""Where the numbers of a run are shown besides its metrics.jsonl: TensorBoard, MLflow or W&B.

MLflow and W&B find their server and credentials by their own variables (MLFLOW_TRACKING_URI, WANDB_API_KEY, ...), which
the workers must have: settings are stored with a run, and must hold no secrets. A run that resumes does so in the same
run of the tracker, whose name is kept in RUN/tracker-KIND.json; steps that the tracker has already are not told again.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError

EXTRAS = {"mlflow": "mlflow", "wandb": "wandb"}
"""Kinds that need an extra, and its module."""
PROGRESS_KEYS = ("step", "steps", "seconds_left", "time")


class Tracker(Protocol):
    """What shows the lines of a run's log."""

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Show the numbers of one line; its ``step`` must be there."""
        ...

    def flush(self) -> None:
        """Make every line added so far visible to others."""
        ...

    def close(self) -> None:
        """Flush, and say that the run is over."""
        ...


def require_tracker(kind: str) -> None:
    """SettingError where a kind of tracker cannot be used here."""
    if kind in EXTRAS and find_spec(EXTRAS[kind]) is None:
        raise SettingError(f"training.tracker={kind} needs the extra: pip install 'ldlva-dist[{kind}]'")
    if kind == "mlflow":
        _require_mlflow_uri(os.environ.get("MLFLOW_TRACKING_URI", ""))


def _require_mlflow_uri(uri: str) -> None:
    """SettingError for an address that MLflow refuses, or that means another place in each process."""
    scheme, colon, _ = uri.lower().partition(":")
    is_folder = scheme == "file" or not (colon or scheme == "databricks")
    if uri and is_folder and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
        return
    if is_folder or (scheme == "sqlite" and not uri.startswith("sqlite:////")):
        raise SettingError(
            "training.tracker=mlflow needs MLFLOW_TRACKING_URI to name a server (http://HOST:PORT) or a database by "
            "its full path (sqlite:////PATH/mlflow.db, four slashes), which the workers can reach; MLflow no longer "
            f"takes folders; got {without_passwords(uri)!r}"
        )


def without_passwords(text: str) -> str:
    """The text, with what stands before the @ of an address left out."""
    return re.sub(r"(?<=//)[^/\s]*@", "***@", text)


def open_tracker(kind: str, run_uri: str, settings: Mapping[str, Any], first_step: int) -> Tracker | None:
    """The tracker of a run that begins, or resumes, at ``first_step``; ``settings`` have the run's ``name``.

    None for ``none``, and for ``tensorboard`` where the run's folder is in an object store, which cannot append.

    Raises:
        ClusterError: if the tracker's server cannot be reached.
    """
    # Each takes seconds to import, and only one process of a run needs one.
    if kind == "tensorboard" and not storage.is_remote(run_uri):
        from ldlva_dist.records.trackers.tensorboard import TensorBoard

        return TensorBoard(run_uri, first_step)
    if kind == "mlflow":
        from ldlva_dist.records.trackers.mlflow_run import MLflow

        return MLflow(run_uri, settings)
    if kind == "wandb":
        from ldlva_dist.records.trackers.wandb_run import WandB

        return WandB(run_uri, settings)
    return None


def kept_id(run_uri: str, kind: str, new: Callable[[], str]) -> tuple[str, bool]:
    """The tracker's id of a run, a new one at its first start; and whether it is new."""
    uri = storage.join(run_uri, f"tracker-{kind}.json")
    if storage.exists(uri):
        try:
            return str(json.loads(storage.read_bytes(uri))["id"]), False
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'{uri} is damaged: it must be {{"id": ...}}; without it the run begins anew there'
            ) from error
    created = new()
    storage.write_bytes(uri, (json.dumps({"id": created}) + "\n").encode())
    return created, True


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What is shown of a line."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if name not in PROGRESS_KEYS and isinstance(value, int | float)
    }
