"""MLflow: one run of the experiment MLFLOW_EXPERIMENT_NAME (ldlva), at MLFLOW_TRACKING_URI."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ldlva_dist.errors import ClusterError, SettingError
from ldlva_dist.records.trackers import kept_id, numbers, without_passwords

EXPERIMENT = "ldlva"
PARAMS_A_CALL = 100
SENTINEL = "epoch"
"""Every line has it. It is written last, so its history tells which steps MLflow has whole."""
# The other ranks wait while rank 0 logs.
LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}


class MLflow:
    """A client, and the id of a run."""

    def __init__(self, run_uri: str, settings: Mapping[str, Any]) -> None:
        for name, value in LIMITS.items():
            os.environ.setdefault(name, value)
        with _answering():
            self._client = MlflowClient()
            self._id, is_new = kept_id(run_uri, "mlflow", lambda: self._create(run_uri, settings["name"]))
            if is_new:
                params = [Param(name, str(value)) for name, value in _flat(settings)]
                for first in range(0, len(params), PARAMS_A_CALL):
                    self._client.log_batch(self._id, params=params[first : first + PARAMS_A_CALL])
            self._client.update_run(self._id, status="RUNNING")
            known = [] if is_new else self._client.get_metric_history(self._id, SENTINEL)
        self._last_step = max((metric.step for metric in known), default=-1)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Log one line's numbers, unless MLflow has its step."""
        if metrics["step"] <= self._last_step:
            return
        now = int(1000 * time.time())
        shown = sorted(numbers(metrics).items(), key=lambda item: item[0] == SENTINEL)
        values = [Metric(name, value, now, metrics["step"]) for name, value in shown]
        with _answering():
            self._client.log_batch(self._id, metrics=values)

    def flush(self) -> None:
        """Nothing waits: every line was sent when it was added."""

    def close(self) -> None:
        """Mark the run as finished."""
        with _answering():
            self._client.set_terminated(self._id)

    def _create(self, run_uri: str, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        return self._client.create_run(experiment_id, run_name=name, tags={"run_uri": run_uri}).info.run_id


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        said = f"MLflow at {os.environ.get('MLFLOW_TRACKING_URI')} said: {error}"
        raise ClusterError(f"training.tracker=mlflow: {without_passwords(said)}") from None  # the cause has them
    except ImportError as error:
        raise SettingError(f"training.tracker=mlflow: MLFLOW_TRACKING_URI needs another package: {error}") from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
