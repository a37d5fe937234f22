"""What the report reads of a checkpoint: tables, bank and calibration network, against the method row by row."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ldlva_dist.analysis import metrics, suspicion
from ldlva_dist.analysis import trained_run as module
from ldlva_dist.analysis.label_findings import scores
from ldlva_dist.analysis.scoring import split_to_judge
from ldlva_dist.analysis.trained_run import TrainedRun, find
from ldlva_dist.checkpoint.saved_files import checkpoint_uri
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.index.graph import build_graph
from ldlva_dist.method.posterior import posterior_step
from ldlva_dist.method.step import TensorBatch, TensorNeighbors
from ldlva_dist.models.ldlva import ModelOutput
from ldlva_dist.packing.relabel import Corrections, relabel
from ldlva_dist.reporting.report.collect import describe_run
from ldlva_dist.reporting.report.overview import is_evaluation
from ldlva_dist.training.build import step_settings
from ldlva_dist.training.network import build_model
from testing.inline_jobs import run_inline
from testing.synthetic_checkpoint import SILENT, small_config, write_checkpoint
from testing.synthetic_run import SyntheticRun, synthetic_run

N, K, C = 90, 4, 7


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    run = synthetic_run(tmp_path_factory.mktemp("set"), rows=(N, 1, 1), k=K, pool=40, pixels=48)
    build_graph(run.dataset, k_max=K)
    return run


@pytest.mark.parametrize("floor", [None, 0.05])
def test_opinions_and_targets_are_the_methods_own(
    made: SyntheticRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, floor: float | None
) -> None:
    """METHOD.md, section 3, official: s = exp(-L1 / delta), z = sigmoid(max(g, -1.3)), d = (1 - u) l + u dt."""
    monkeypatch.setattr(module, "PAIRS", 10 * K)  # several stretches
    config = small_config(made)
    config = replace(config, loss=replace(config.loss, calibration_floor=floor))
    saved, logits, features = write_checkpoint(tmp_path, made, config)
    trained = TrainedRun(saved, made.dataset)
    everyone, model = trained.findings(), build_model(config, C).eval()
    probs = made.findings.probs_NC.astype(np.float16).astype(float)
    usable = np.ones(N, dtype=bool)
    usable[made.graph_NK[SILENT]] = False
    ids = np.array([0, SILENT, 39, 40, 41, N - 1])
    opinions = trained.opinions(ids)
    assert model.calibration is not None
    for row, i in enumerate(ids):
        weights, u = np.zeros(K), 1 / (1 + np.exp(-float(logits[i])))
        for k, j in enumerate(made.graph_NK[i]):
            own_1V, other_11V = (torch.from_numpy(features[n].astype(np.float32)) for n in ([i], [[j]]))
            with torch.inference_mode():
                g = float(model.calibration(own_1V, other_11V))
            z = 1 / (1 + np.exp(-max(g, -1.3 if floor is None else floor)))
            weights[k] = z * np.exp(-np.abs(made.va_N2[i] - made.va_N2[j]).sum() / config.loss.kernel_width) * usable[j]
        shares = weights / max(weights.sum(), 1e-30)
        label = 0.9 * np.eye(C)[made.findings.labels_N[i]] + 0.1 / C
        said = shares @ probs[made.graph_NK[i]]
        target = (1 - u) * label + u * said if weights.any() else label
        assert opinions.neighbors_nK[row].tolist() == made.graph_NK[i].tolist()
        np.testing.assert_allclose(opinions.shares_nK[row], shares, atol=1e-5)
        np.testing.assert_allclose(opinions.aggregated_nC[row], said, atol=1e-5)
        np.testing.assert_allclose(opinions.target_nC[row], target, atol=1e-5)
        np.testing.assert_allclose(everyone.aggregated_NC[i], said, atol=1e-5)
        assert everyone.uncertainty_N[i] == pytest.approx(u, abs=1e-6)
    assert not opinions.aggregated_nC[1].any()
    weight = suspicion.model_weight(everyone.probs_NC, everyone.aggregated_NC, everyone.labels_N)
    pool = suspicion.pooled(everyone.probs_NC, everyone.aggregated_NC, weight)
    assert everyone.proposed_N.tolist() == pool.argmax(axis=1).tolist()
    doubts = [1 - pool[i, y] + weight * everyone.uncertainty_N[i] for i, y in enumerate(everyone.labels_N)]
    np.testing.assert_allclose(everyone.suspicion_N, np.array(doubts) / (1 + weight), rtol=1e-6)
    assert set(scores(everyone)) >= {"uncertainty", "one_minus_p_label", "neighbor_disagreement", "suspicion"}


def test_the_target_of_a_label_posterior_is_what_the_training_step_used(made: SyntheticRun, tmp_path: Path) -> None:
    """Read off the step's gradient: that of a cross-entropy in the logits is softmax - target."""
    config = small_config(made)
    config = replace(config, loss=replace(config.loss, recipe="posterior"))
    saved, logits, _ = write_checkpoint(tmp_path, made, config)
    ids = np.arange(N)
    opinions, joint_CC = TrainedRun(saved, made.dataset).opinions(ids), saved.read_weights()["noise_joint"]
    near_NK = np.concatenate([made.graph_NK, ids[:, None]], axis=1)  # each row is the last of its own neighbours
    usable_N = np.ones(N, dtype=bool)
    usable_N[made.graph_NK[SILENT]] = False
    labels_N, va_N2 = torch.from_numpy(made.findings.labels_N), torch.from_numpy(made.va_N2)
    near = TensorNeighbors(
        va_BK2=va_N2[near_NK],
        labels_BK=labels_N[near_NK],
        probs_BKC=torch.from_numpy(made.findings.probs_NC.astype(np.float16)[near_NK]).float(),
        features_BKV=torch.zeros(N, K + 1, 0),
        usable_BK=torch.from_numpy(usable_N[near_NK]),
        logit_BK=torch.zeros(N, K + 1),
    )
    batch = TensorBatch(images=torch.zeros(N, 1), labels_B=labels_N, va_B2=va_N2, logit_B=logits)
    outputs_NC = torch.randn(N, C, requires_grad=True)
    result = posterior_step(
        lambda images: ModelOutput(images, outputs_NC, None),
        batch,
        near,
        joint_CC=joint_CC,
        settings=step_settings(config, made.dataset.info, torch.device("cpu")),
        global_batch_size=1,
    )
    result.loss.backward()
    assert outputs_NC.grad is not None
    target_NC = outputs_NC.detach().softmax(dim=1) - outputs_NC.grad
    np.testing.assert_allclose(opinions.target_nC, target_NC, atol=1e-5)


def test_a_run_of_another_kind_or_another_data_set_is_refused(made: SyntheticRun, tmp_path: Path) -> None:
    config = small_config(made)
    saved, *_ = write_checkpoint(tmp_path / "va", made, config)
    with pytest.raises(SettingError, match="must be the version the checkpoint was trained on"):
        TrainedRun(saved, replace(made.dataset, info=replace(made.dataset.info, content_hash="f" * 64)))
    saved, *_ = write_checkpoint(tmp_path / "ce", made, replace(config, loss=replace(config.loss, recipe="ce")))
    with pytest.raises(SettingError, match="recipe must be official, paper or posterior"):
        TrainedRun(saved, made.dataset)


def test_neighbours_found_anew_in_feature_space_are_the_last_ones(made: SyntheticRun, tmp_path: Path) -> None:
    config = small_config(made)
    config = replace(config, index=replace(config.index, space="feature"))
    graphs = {f"graph_{i}": np.roll(made.graph_NK, i, axis=0).astype(np.int32) for i in (2, 10)}
    for name, found, expected in (("none", {}, made.graph_NK), ("two", graphs, graphs["graph_10"])):
        saved, *_ = write_checkpoint(tmp_path / name, made, config, found)
        ids = np.array([3, 50])
        opinions = TrainedRun(saved, made.dataset).opinions(ids)
        assert opinions.neighbors_nK.tolist() == expected[ids].tolist()


def test_exact_neighbours_leave_no_features_and_are_weighed_by_similarity_alone(
    made: SyntheticRun, tmp_path: Path
) -> None:
    config = small_config(made)
    exact = replace(config, neighbors=replace(config.neighbors, source="exact"))
    similar = replace(config, loss=replace(config.loss, calibration=False))
    ids, found, facts = np.array([0, SILENT, 41]), {}, {}
    for name, each in (("exact", exact), ("similar", similar)):
        saved, *_ = write_checkpoint(tmp_path / name, made, each)
        found[name] = TrainedRun(saved, made.dataset).opinions(ids)
        facts[name] = dict(describe_run(name, each, made.dataset.info, {}, str(tmp_path / name)).facts)
    np.testing.assert_array_equal(found["exact"].shares_nK, found["similar"].shares_nK)
    np.testing.assert_array_equal(found["exact"].target_nC, found["similar"].target_nC)
    assert "similarity alone" in facts["exact"]["neighbours weighed by"]
    assert "neighbours weighed by" not in facts["similar"]


def judged(run: SyntheticRun) -> dict[str, Any]:
    """An evaluation.json of step 5."""
    given = metrics.classification(run.findings.labels_N, run.findings.probs_NC, num_classes=C)
    facts = {"dataset": "toy", "split": "test", "samples": N, "steps": 5, "version": run.dataset.info.content_hash}
    return {**facts, "given": given}


def run_report(*arguments: str) -> int:
    """The exit code of jobs/report.py."""
    return run_inline("report.py", *arguments)


def test_the_job_writes_the_page_and_the_table(
    made: SyntheticRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(made)
    for name, other in (("ours", config), ("plain", replace(config, loss=replace(config.loss, recipe="ce")))):
        saved, *_ = write_checkpoint(tmp_path / name, made, other)
        found = judged(made) | {"weights_crc32": saved.weights_crc32}
        (tmp_path / name / "evaluation.json").write_text(json.dumps(found))
    ours, plain = str(tmp_path / "ours"), str(tmp_path / "plain")
    copies = tmp_path / "copies.csv"
    copies.write_text("group,kind,id,key\n1,near,3,face_0000003\n1,near,8,face_0000008\n")
    listed = ("--duplicates", str(copies))
    assert run_report("--run", ours, "--baseline", plain, "--samples", "20", *listed) == 0
    assert '"copies": {"groups": [{"count": 2,' in (tmp_path / "ours" / "report.html").read_text()
    assert "Compared with <b>plain</b>" in (tmp_path / "ours" / "report.html").read_text()
    table = pq.read_table(tmp_path / "ours" / "uncertainty.parquet")
    assert sorted(table["rank"].to_pylist()) == list(range(1, N + 1))
    said = " ".join(capsys.readouterr().out.split())
    assert f"{sum(table['listed'].to_pylist())} of {N} labels are listed as probably wrong" in said
    assert run_report("--run", plain) == 0
    assert "keeps no outputs of single samples" in (tmp_path / "plain" / "report.html").read_text()
    assert not (tmp_path / "plain" / "uncertainty.parquet").exists()
    for arguments, message in (
        (("--run", str(tmp_path / "nowhere")), "run must be a folder with a finished checkpoint"),
        (("--run", plain, *listed), "--duplicates must be left out for a run that shows no samples"),
        (("--run", ours, "--samples", "1"), "--samples must be >= 4, got 1"),
        (("--run", ours, "--megabytes", "0"), "--megabytes must be >= 1, got 0"),
    ):
        assert run_report(*arguments) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    for job in ("report.py", "evaluate.py"):
        assert run_inline(job, "--run", ours, "--split", "tset") == 2
        assert "invalid choice 'tset'" in " ".join(capsys.readouterr().err.split())


def test_without_a_test_part_the_holdout_is_judged_and_that_is_said(
    made: SyntheticRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = synthetic_run(tmp_path / "some", rows=(N, 9, 0), k=K, pool=40, pixels=48)
    assert [split_to_judge(info) for info in (made.dataset.info, run.dataset.info)] == ["test", "holdout"]
    config = small_config(run)
    saved, *_ = write_checkpoint(tmp_path / "run", run, replace(config, loss=replace(config.loss, recipe="ce")))
    judgement = judged(run) | {"split": "holdout", "weights_crc32": saved.weights_crc32}
    place = tmp_path / "run" / "evaluation.json"
    place.write_text(json.dumps(judgement))
    assert run_report("--run", str(tmp_path / "run")) == 0
    assert "judged on its holdout" in capsys.readouterr().out
    assert "On split holdout" in (tmp_path / "run" / "report.html").read_text()
    for job in ("report.py", "evaluate.py"):
        assert run_inline(job, "--run", str(tmp_path / "run"), "--split", "test") == 2
        assert "split must have samples (train, holdout), got 'test'" in capsys.readouterr().err
    bare = synthetic_run(tmp_path / "none", rows=N, k=K, pool=40, pixels=48)
    config = small_config(bare)
    saved, *_ = write_checkpoint(tmp_path / "bare", bare, replace(config, loss=replace(config.loss, recipe="ce")))
    found = judged(bare) | {"split": "train", "weights_crc32": saved.weights_crc32}
    (tmp_path / "bare" / "evaluation.json").write_text(json.dumps(found))
    for job in ("report.py", "evaluate.py"):
        assert run_inline(job, "--run", str(tmp_path / "bare")) == 2
        assert "has neither a test nor a holdout part" in capsys.readouterr().err
    assert run_report("--run", str(tmp_path / "bare"), "--split", "train") == 0


def test_an_evaluation_of_another_shape_is_none(made: SyntheticRun) -> None:
    whole = judged(made)
    assert is_evaluation(json.loads(json.dumps(whole)), C)
    given = whole["given"]
    others = [
        {"confusion": [[1]]},
        {"confusion": None},
        {"accuracy": "high"},
        {"reliability": None},
        {"class_reliability": []},
        {"ece": {}},
    ]
    shapes = [None, 3, [], {}, whole | {"given": None}, *(whole | {"given": given | other} for other in others)]
    assert not any(is_evaluation(shape, C) for shape in shapes)
    assert not is_evaluation(whole, C + 1)


def test_a_run_is_found_by_addresses_that_mean_the_same_everywhere(
    made: SyntheticRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "ours", made, small_config(made))
    monkeypatch.chdir(tmp_path)
    ours = str(tmp_path / "ours")
    copied = Dataset.open(str(shutil.copytree(made.dataset.uri, tmp_path / "data")))
    for run, dataset, found_in in (("ours", None, made.dataset), ("./ours/", "data", copied)):
        place = find(run, dataset)
        assert (place.run, place.checkpoint.uri, place.dataset) == (ours, checkpoint_uri(ours, 5), found_in)


def one_correction(run: SyntheticRun, dataset: Dataset, name: str, sample: int) -> SyntheticRun:
    """The run on a version in which one label was changed."""
    old = int(dataset.columns(["label"], first_id=sample, rows=1)["label"][0].as_py())
    change = Corrections(
        files=["marked.csv"],
        class_names=dataset.info.class_names,
        ids_M=np.array([sample]),
        keys_M=[f"face_{sample:07d}"],
        given_M=np.array([old], np.int16),
        decided_M=np.array([(old + 1) % C], np.int16),
        reviewers_M=[["marked.csv"]],
        conflicts={},
    )
    return replace(run, dataset=relabel(dataset, name, change))


def test_a_baseline_is_refused_unless_it_was_judged_on_the_same_samples_and_labels(
    made: SyntheticRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours is on the data set; others on versions with another label in the training or holdout part, or elsewhere."""
    ours_data = Dataset.open(str(shutil.copytree(made.dataset.uri, tmp_path / "data")))
    runs = {
        "ours": replace(made, dataset=ours_data),
        "trained": one_correction(made, ours_data, "trained", 3),
        "held": one_correction(made, ours_data, "held", N),
        "other": synthetic_run(tmp_path / "else", rows=(N, 1, 1), k=K, pool=40, pixels=48, seed=1),
    }
    for name, run in runs.items():
        config = small_config(run)
        saved, *_ = write_checkpoint(tmp_path / name, run, replace(config, loss=replace(config.loss, recipe="ce")))
        for split in ("test", "holdout"):
            found = judged(run) | {"split": split, "weights_crc32": saved.weights_crc32}
            (tmp_path / f"{name}-{split}.json").write_text(json.dumps(found))
    ours = str(tmp_path / "ours")

    def compare(with_whom: str, split: str) -> int:
        for name in ("ours", with_whom):
            shutil.copy(tmp_path / f"{name}-{split}.json", tmp_path / name / "evaluation.json")
        return run_report("--run", ours, "--baseline", str(tmp_path / with_whom), "--split", split)

    assert [compare("trained", split) for split in ("test", "holdout")] == [0, 0]
    assert [compare("held", split) for split in ("test", "holdout")] == [0, 2]
    refused = "--baseline must be a run on the same {} samples, labels and classes as --run"
    assert refused.format("holdout") in capsys.readouterr().err
    assert compare("other", "test") == 2
    assert refused.format("test") in capsys.readouterr().err


def test_the_report_says_what_people_changed_and_whether_the_run_agrees(
    made: SyntheticRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One suspect gets the proposed class, another one a third class; a confirmed label and one of the holdout too."""
    dataset = Dataset.open(str(shutil.copytree(made.dataset.uri, tmp_path / "data")))
    build_graph(dataset, k_max=K)
    saved, *_ = write_checkpoint(tmp_path / "first", replace(made, dataset=dataset), small_config(made))
    before = TrainedRun(saved, replace(dataset, info=made.dataset.info)).findings()
    names, suspect = dataset.info.class_names, np.flatnonzero(before.proposed_N != before.labels_N)
    third = next(c for c in range(C) if c not in (before.proposed_N[suspect[1]], before.labels_N[suspect[1]]))
    held = int(dataset.labels("holdout")[0])
    decisions = {
        int(suspect[0]): (int(before.labels_N[suspect[0]]), int(before.proposed_N[suspect[0]])),
        int(suspect[1]): (int(before.labels_N[suspect[1]]), third),
        80: (int(before.labels_N[80]), int(before.labels_N[80])),
        N: (held, (held + 1) % C),
    }
    lines = [f"face_{i:07d},{names[old]},{names[new]}" for i, (old, new) in decisions.items()]
    (tmp_path / "anna.csv").write_text("\n".join(["key,given,decision", *lines, ""]))
    marked = ("--name", "v1", "--round", "spring", "--marked", str(tmp_path / "anna.csv"))
    assert run_inline("make_shards.py", "relabel", "--dataset", dataset.uri, *marked) == 0
    version = Dataset.open(f"{dataset.uri}/versions/v1")
    build_graph(version, k_max=K)
    run = replace(made, dataset=version)
    saved, *_ = write_checkpoint(tmp_path / "second", run, small_config(run))
    found = judged(run) | {"weights_crc32": saved.weights_crc32}
    (tmp_path / "second" / "evaluation.json").write_text(json.dumps(found))
    assert run_report("--run", str(tmp_path / "second"), "--samples", "20") == 0
    after = TrainedRun(saved, version).findings().proposed_N
    trained = {i: pair for i, pair in decisions.items() if i < N and pair[0] != pair[1]}
    new, former = (sum(int(after[i]) == pair[which] for i, pair in trained.items()) for which in (1, 0))
    agreement = f"of 2 changed training labels the run proposes the new class for {new}, the former for {former}"
    said = capsys.readouterr().out
    assert f"round spring: 3 labels changed, 1 confirmed, by anna.csv; {agreement}" in " ".join(said.split())
    page = (tmp_path / "second" / "report.html").read_text()
    assert "Round spring" in page
    assert agreement in page
    assert new >= 1


def test_the_command_makes_a_version_of_the_labels_that_were_marked(
    made: SyntheticRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, names, labels = tmp_path / "data", made.dataset.info.class_names, made.findings.labels_N
    shutil.copytree(made.dataset.uri, dataset)
    other, marked = (int(labels[3]) + 1) % C, tmp_path / "marked.csv"
    rows = [
        f"3,face_0000003,{names[labels[3]]},{names[other]},0.9",
        f"5,face_0000005,{names[labels[5]]},{names[labels[5]]},0",
    ]
    marked.write_text("\n".join(["id,key,given_label,proposed_label,uncertainty", *rows, ""]))
    arguments = ("relabel", "--dataset", str(dataset), "--name", "checked", "--marked", str(marked))
    assert run_inline("make_shards.py", *arguments) == 0
    expected = labels.copy()
    expected[3] = other
    version = f"{dataset}/versions/checked"
    assert Dataset.open(version).columns(["label"], rows=N)["label"].to_pylist() == expected.tolist()
    said = capsys.readouterr().out
    assert f"labels changed: 1 of 2 in {marked}" in said
    assert f"python jobs/build_index.py --dataset {version}" in said
    assert run_inline("make_shards.py", *arguments) == 2
    assert "a version's name must be new" in capsys.readouterr().err
