"""Suspects of a run go to another tool with their images, and come back as a version; no cluster is started."""

import csv
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from ldlva_dist.analysis.suspects import as_issues_table, suspect_ids
from ldlva_dist.analysis.trained_run import TrainedRun
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.exchange.common_form import as_issues
from ldlva_dist.exchange.formats import FORMATS, FormatName, read_marked
from ldlva_dist.index.graph import build_graph
from testing.inline_jobs import run_inline
from testing.synthetic_checkpoint import small_config, write_checkpoint
from testing.synthetic_run import SyntheticRun, synthetic_run

N, K = 90, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    run = synthetic_run(tmp_path_factory.mktemp("set"), rows=(N, 1, 1), k=K, pool=40, pixels=48)
    build_graph(run.dataset, k_max=K)
    return run


@pytest.fixture(scope="module")
def run(made: SyntheticRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    write_checkpoint(folder, made, small_config(made))
    return str(folder)


@pytest.fixture(scope="module")
def trained(made: SyntheticRun, run: str) -> TrainedRun:
    from ldlva_dist.analysis.trained_run import find

    return TrainedRun(find(run, None).checkpoint, made.dataset)


def test_suspects_are_what_the_run_would_change_in_the_order_of_its_suspicion(trained: TrainedRun) -> None:
    findings = trained.findings()
    ids = suspect_ids(findings)
    assert 5 < len(ids) < N
    assert sorted(ids.tolist()) == np.flatnonzero(findings.proposed_N != findings.labels_N).tolist()
    assert (np.diff(findings.rank_N[ids]) > 0).all()
    assert suspect_ids(findings, 3).tolist() == ids[:3].tolist()
    names = trained.dataset.info.class_names
    issues = as_issues(as_issues_table(trained.dataset, findings, ids))
    assert [issue.key for issue in issues] == [f"face_{i:07d}" for i in ids]
    assert [issue.score for issue in issues] == findings.suspicion_N[ids].tolist()
    assert [issue.given for issue in issues] == [names[findings.labels_N[i]] for i in ids]
    assert [issue.proposed for issue in issues] == [names[findings.proposed_N[i]] for i in ids]


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_holds_the_suspects_and_the_stored_images(
    name: FormatName, made: SyntheticRun, trained: TrainedRun, run: str, tmp_path: Path
) -> None:
    output = tmp_path / "out put"
    assert run_inline("exchange.py", "write", "--run", run, "--format", name, "--output", str(output)) == 0
    ids = suspect_ids(trained.findings())
    table = as_issues_table(made.dataset, trained.findings(), ids)
    files = {"label-studio": "tasks.json", "fiftyone": "labels.json", "cvat": "annotations.xml"}
    file = output / files.get(name, "issues.parquet" if name == "spotlight" else "issues.csv")
    assert read_marked(str(file)).equals(table)
    folder = FORMATS[name].images
    if folder is not None:
        stored = made.dataset.images(ids)
        written = {path.name: path.read_bytes() for path in (output / folder).iterdir()}
        assert written == {f"face_{i:07d}.jpg": bytes(stored.read(i)) for i in ids.tolist()}
    assert run_inline("exchange.py", "write", "--run", run, "--format", name, "--output", str(output)) == 2


def test_a_tool_finds_the_images_and_what_else_it_wants(trained: TrainedRun, run: str, tmp_path: Path) -> None:
    def write(name: str, *more: str) -> Path:
        arguments = ("--run", run, "--format", name, "--output", str(tmp_path / name), "--first", "2", *more)
        assert run_inline("exchange.py", "write", *arguments) == 0
        return tmp_path / name

    findings = trained.findings()
    ids = suspect_ids(findings, 2)
    key = f"face_{ids[0]:07d}"
    tasks = json.loads((write("label-studio") / "tasks.json").read_text())
    assert len(tasks) == 2
    assert tasks[0]["data"]["image"] == f"/data/local-files/?d=label-studio/images/{key}.jpg"
    assert tasks[0]["predictions"][0]["score"] == 1 - findings.suspicion_N[ids[0]]
    config = ElementTree.parse(tmp_path / "label-studio" / "config.xml")
    choices = [choice.get("value") for choice in config.iter("Choice")]
    assert choices == list(trained.dataset.info.class_names)
    spotlight = pq.read_table(write("spotlight", "--image-address", "https://there/x") / "issues.parquet")
    assert spotlight["image"][0].as_py() == f"https://there/x/{key}.jpg"
    np.testing.assert_array_equal(np.stack(spotlight["embedding"].to_pylist()), trained.embeddings(ids))
    image = ElementTree.parse(write("cvat") / "annotations.xml").find("image")
    assert image is not None
    assert (image.get("width"), image.get("height")) == ("48", "48")
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in write("cleanlab").glob("*.npy")}
    known = findings.probs_NC.any(axis=1)
    np.testing.assert_array_equal(arrays["pred_probs"], findings.probs_NC[known])
    np.testing.assert_array_equal(arrays["labels"], findings.labels_N[known])
    assert arrays["keys"].tolist() == [f"face_{i:07d}" for i in np.flatnonzero(known)]


def test_a_damaged_image_is_left_out_and_said(
    trained: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first suspect's bytes are overwritten in a copy of the data set."""
    fresh = synthetic_run(tmp_path / "set", rows=(N, 1, 1), k=K, pool=40, pixels=48)
    build_graph(fresh.dataset, k_max=K)
    write_checkpoint(tmp_path / "run", fresh, small_config(fresh))
    ids = suspect_ids(trained.findings())
    place = fresh.dataset.columns(["offset", "size"], first_id=int(ids[0]), rows=1).to_pylist()[0]
    shard = Path(fresh.dataset.shard_uri(0))
    data = bytearray(shard.read_bytes())
    data[place["offset"] + 5] ^= 255
    shard.write_bytes(data)
    arguments = ("--run", str(tmp_path / "run"), "--format", "fiftyone", "--output", str(tmp_path / "out"))
    assert run_inline("exchange.py", "write", *arguments) == 0
    said = capsys.readouterr().out
    assert f"left out: face_{ids[0]:07d}: " in said
    kept = [issue.key for issue in as_issues(read_marked(str(tmp_path / "out" / "labels.json")))]
    assert f"face_{ids[0]:07d}" not in kept
    assert kept


def test_a_round_trip_ends_in_a_version_and_differing_reviewers_stop_it(
    made: SyntheticRun, trained: TrainedRun, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two reviewers decide on the same three suspects; they differ on the last one."""
    import shutil

    dataset = str(shutil.copytree(made.dataset.uri, tmp_path / "data"))
    output = tmp_path / "tasks"
    arguments = ("--run", run, "--format", "label-studio", "--output", str(output), "--first", "3")
    assert run_inline("exchange.py", "write", *arguments) == 0
    ids = suspect_ids(trained.findings(), 3)
    issues = as_issues(read_marked(str(output / "tasks.json")))
    for who, last in (("anna", issues[2].proposed), ("ben", issues[2].given)):
        with open(tmp_path / f"{who}.csv", "w") as file:
            writer = csv.writer(file)
            writer.writerow(["key", "given", "decision"])
            decisions = [issues[0].proposed, issues[1].given, last]
            writer.writerows((issue.key, issue.given, to) for issue, to in zip(issues, decisions, strict=True))
    marked = [str(tmp_path / f"{who}.csv") for who in ("anna", "ben")]
    assert run_inline("exchange.py", "read", *marked, "--output", str(tmp_path / "both.csv")) == 0
    said = capsys.readouterr().out
    assert f"{marked[0]}: csv, 3 rows, 3 decided, 2 of them changed" in said
    assert len(read_marked(str(tmp_path / "both.csv"))) == 6
    relabel = ("relabel", "--dataset", dataset, "--name", "v1", "--round", "spring", "--marked", *marked)
    assert run_inline("make_shards.py", *relabel) == 3
    both = capsys.readouterr()
    assert f"conflict: {issues[2].key}: anna.csv: {issues[2].proposed}, ben.csv: {issues[2].given}" in both.out
    assert "reviewers differ on 1 samples, listed above" in both.err
    assert run_inline("make_shards.py", *relabel, "--on-conflict", "keep-given") == 0
    assert "labels changed: 1 of 3" in capsys.readouterr().out
    expected = trained.findings().labels_N.copy()
    expected[ids[0]] = trained.findings().proposed_N[ids[0]]
    assert Dataset.open(f"{dataset}/versions/v1").labels("train").tolist() == expected.tolist()
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
