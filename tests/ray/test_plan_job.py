"""jobs/plan.py against the run that it tells of, and what it says of one that cannot start."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ldlva_dist.config import to_json
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.run import launch
from testing.clusters.job_scripts import Scripts

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_plan_is_what_the_run_was_and_leaves_nothing_behind(
    alone: launch.RunResult, scripts: Scripts, tmp_path: Path
) -> None:
    config = replace(alone.checkpoint.config, name="planned", storage_path=str(tmp_path / "runs"))
    (tmp_path / "run.json").write_text(to_json(config))
    done = scripts.run(
        *("plan", "--config", str(tmp_path / "run.json"), "--probe-seconds", "0.5"),
        *("--price-per-node-hour", "36", "--json", str(tmp_path / "plan.json")),
    )
    assert done.code == 0, done.stderr
    planned = json.loads((tmp_path / "plan.json").read_text())
    assert planned["work"]["steps"] == read_metrics(alone.run_uri)[-1]["step"] == 20
    size = sum(file.stat().st_size for file in Path(alone.checkpoint.uri).rglob("*") if file.is_file())
    assert planned["checkpoint_bytes_in_all"] == pytest.approx(size, rel=0.03)
    assert 0 < planned["probed_steps"] <= 20
    assert planned["seconds"] > planned["work"]["samples"] / planned["samples_per_second"]
    assert planned["cost"] == pytest.approx(planned["seconds"] / 100)  # one node
    measured = {role["name"]: role for role in planned["memory"] if role["how"] == "measured"}
    assert {"trainer", "bank shard", "driver"} <= set(measured)  # the stream's one task is over before it is seen
    assert measured["bank shard"]["processes"] == 2
    assert measured["trainer"]["each"] > measured["bank shard"]["each"] > 50e6
    assert all(0.5 < measured[name]["each"] / measured[name]["computed"] < 1.5 for name in ("trainer", "bank shard"))
    assert planned["problems"] == []
    assert not (tmp_path / "runs").exists()


def test_all_that_does_not_fit_is_listed_with_its_cure(faces: str, scripts: Scripts, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = scripts.run(
        *("plan", "demo", "--data.dataset", faces, "--storage-path", str(tmp_path / "file" / "runs")),
        *("--neighbors.num-neighbors", "20", "--placement.num-workers", "16", "--json", str(tmp_path / "plan.json")),
    )
    assert done.code == 2
    problems = json.loads((tmp_path / "plan.json").read_text())["problems"]
    sentences = "\n".join(problem["sentence"] for problem in problems)
    for sentence in ("num_neighbors", "placement needs", "storage path must be writable"):
        assert sentence in sentences
    assert all(problem["cure"] for problem in problems)
    assert "cure: " in done.stdout
    assert "not probed" in done.stdout


def test_a_plan_without_a_probe_is_arithmetic(faces: str, scripts: Scripts, tmp_path: Path) -> None:
    done = scripts.run(
        *("plan", "demo", "--no-probe", "--data.dataset", faces, "--storage-path", str(tmp_path / "runs")),
        *("--neighbors.num-neighbors", "16", "--data.balance", "1", "--json", str(tmp_path / "plan.json")),
    )
    assert done.code == 0, done.stderr
    planned = json.loads((tmp_path / "plan.json").read_text())
    assert planned["samples_per_second"] is None
    assert {role["how"] for role in planned["memory"]} == {"computed"}
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nonsense"], 2, "the first argument must be a preset"),
        (["demo", "--data.dataset", "nowhere"], 3, "nowhere is not a data set"),
        (["demo", "--probe-seconds", "0"], 2, "--probe-seconds must be a number > 0"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    arguments: list[str], code: int, sentence: str, scripts: Scripts
) -> None:
    done = scripts.run("plan", *arguments)
    assert done.code == code
    assert sentence in done.stderr
