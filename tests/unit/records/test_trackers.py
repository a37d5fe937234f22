"""Trackers: a run that resumes does so in the tracker's same run; what is missing is said before anything starts."""

import json
import os
import traceback
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.records import trackers
from ldlva_dist.records.metrics_log import MetricsLog
from ldlva_dist.records.trackers import open_tracker, require_tracker

SETTINGS = {"name": "faces", "loss": {"gamma": 0.5}, "others": {f"n{i}": i for i in range(150)}}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's local database, which is what our own message recommends."""
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    require_tracker("mlflow")
    return f"sqlite:///{tmp_path}/mlflow.db"


def log(run: Path, first_step: int, steps: range, loss: float, *, end: bool) -> None:
    written = MetricsLog(str(run), first_step, open_tracker("mlflow", str(run), SETTINGS, first_step))
    for step in steps:
        written.add({"step": step, "steps": 30, "epoch": step / 10, "loss": loss, "holdout_accuracy": None})
    if end:
        written.close()


def test_a_killed_run_goes_on_in_mlflows_same_run_without_telling_a_step_twice(store: str, tmp_path: Path) -> None:
    run, client = tmp_path / "run", MlflowClient(store)
    run.mkdir()
    log(run, 1, range(1, 21), 1.0, end=False)
    run_id = json.loads((run / "tracker-mlflow.json").read_text())["id"]
    assert client.get_run(run_id).info.status == "RUNNING"
    log(run, 11, range(11, 31), 2.0, end=True)

    experiment = client.get_experiment_by_name("ldlva")
    assert experiment is not None
    [found] = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (run_id, "faces", "FINISHED")
    assert found.data.tags["run_uri"] == str(run)
    assert found.data.params == {"name": "faces", "loss.gamma": "0.5"} | {f"others.n{i}": str(i) for i in range(150)}
    history = client.get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(s, 1.0 if s <= 20 else 2.0) for s in range(1, 31)]
    assert set(found.data.metrics) == {"epoch", "loss"}


def test_a_server_that_is_not_there_is_an_error_of_the_cluster_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ClusterError, match=r"training.tracker=mlflow: MLflow at http://127.0.0.1:9 said:"):
        open_tracker("mlflow", str(tmp_path), SETTINGS, 1)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"
    assert not (tmp_path / "tracker-mlflow.json").exists()


@pytest.mark.parametrize(
    "uri", ["", "file:///somewhere", "FILE:///somewhere", "/somewhere", "./mlruns", "mlruns", "sqlite:///here.db"]
)
def test_a_place_that_mlflow_or_the_workers_do_not_take_is_refused_before_the_run(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SettingError, match=r"sqlite:////PATH/mlflow\.db.*got "):
        require_tracker("mlflow")


@pytest.mark.parametrize(
    "uri", ["http://host:5000", "https://u:p@host", "sqlite:////full/mlflow.db", "postgresql://h/db", "databricks"]
)
def test_servers_and_databases_are_taken(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    require_tracker("mlflow")


def test_a_folder_is_taken_where_mlflow_was_told_to_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///somewhere")
    require_tracker("mlflow")


def test_a_password_in_the_address_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:se@cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ClusterError, match=r"MLflow at http://\*\*\*@127\.0\.0\.1:9 said:") as caught:
        open_tracker("mlflow", str(tmp_path), SETTINGS, 1)
    assert "cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "{"])
def test_a_kept_id_that_is_none_is_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "tracker-mlflow.json").write_text(text)
    with pytest.raises(DataError, match=r"tracker-mlflow\.json is damaged"):
        trackers.kept_id(str(tmp_path), "mlflow", lambda: "new")


def test_what_a_tracker_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SettingError, match=r"training.tracker=mlflow needs MLFLOW_TRACKING_URI"):
        require_tracker("mlflow")
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    for kind in ("mlflow", "wandb"):
        with pytest.raises(SettingError, match=rf"training.tracker={kind} needs the extra: pip install .*\[{kind}\]"):
            require_tracker(kind)
    require_tracker("tensorboard")
    require_tracker("none")


def test_no_tracker_writes_nothing_but_the_log(tmp_path: Path) -> None:
    assert open_tracker("none", str(tmp_path), SETTINGS, 1) is None
    assert open_tracker("tensorboard", "s3://bucket/run", SETTINGS, 1) is None
    MetricsLog(str(tmp_path), 1, None).close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
