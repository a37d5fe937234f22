"""What an audit is asked for, where it lies, and the lines it ends with; the whole of it is in tests/ray."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldlva_dist.analysis.label_findings import Findings
from ldlva_dist.analysis.out_of_fold import LEFT_OUT, find_out_of_fold, write_outputs
from ldlva_dist.commands.start.audit_end import AuditEnd, closing_lines, count_copies
from ldlva_dist.commands.start.audit_request import KINDS, is_stated, parse_audit, split_settings, without_output
from ldlva_dist.commands.start.audit_stages import AuditFolder, fold_settings, judge_folds
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.sources.image_tables import Folder
from testing.synthetic_run import synthetic_run
from testing.toy_dataset import CLASSES, TRAIN, toy_dataset


def table_of(folder: Path, labels: list[str]) -> list[str]:
    """A CSV of images that are named and not there: labels are counted without them."""
    (folder / "images").mkdir()
    lines = ["name,kind", *(f"{i}.png,{label}" for i, label in enumerate(labels))]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return ["folder", "--output", "o", "--table", str(folder / "table.csv"), "--images", str(folder / "images")]


NAMED = ["--path-column", "name", "--label-column", "kind"]


def test_settings_of_the_run_are_told_from_options_of_the_source() -> None:
    words = ["folder", "--output", "o", "--training.epochs", "3", "--classes", "a", "b", "--placement.no-use-gpu"]
    assert split_settings(words) == (
        ["folder", "--output", "o", "--classes", "a", "b"],
        ["--training.epochs", "3", "--placement.no-use-gpu"],
    )
    assert without_output(["folder", "--output", "o", "--images", "i", "--output=p"]) == ["folder", "--images", "i"]
    assert is_stated("--holdout", ["--holdout=0.2"])
    assert not is_stated("--holdout", ["--holdout-by", "person"])
    assert {"folder", "parquet", "ferplus", "faces"} <= KINDS


def test_settings_that_are_named_win_and_wrong_ones_are_refused_at_once() -> None:
    request = parse_audit(["x", "--output", "o", "--no-probe", "--training.epochs", "3"])
    assert (request.options.probe, request.options.duplicates, request.output) == (False, True, "o")
    assert request.override(RunConfig(name="chosen")) == replace(
        RunConfig(name="chosen"), training=replace(RunConfig().training, epochs=3.0)
    )
    with pytest.raises(SettingError, match=r"loss\.recipe must be official, paper or posterior for an audit, got ce"):
        parse_audit(["x", "--output", "o", "--loss.recipe", "ce"])


def test_classes_are_those_of_the_labels_and_all_rows_are_audited(tmp_path: Path) -> None:
    words = table_of(tmp_path, ["cat", "dog", "owl", "dog"])
    source = parse_audit([*words, *NAMED]).source
    assert (source.classes, source.holdout) == (("cat", "dog", "owl"), 0.0)
    stated = parse_audit([*words, *NAMED, "--classes", "dog", "cat", "--holdout", "0.2"]).source
    assert (stated.classes, stated.holdout) == (("dog", "cat"), 0.2)


def test_emotions_keep_the_order_that_the_project_has(tmp_path: Path) -> None:
    seven = ["anger", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert parse_audit([*table_of(tmp_path, seven), *NAMED]).source.stated().names[0] == "Neutral"


def test_a_path_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table_of(tmp_path, ["cat", "dog", "dog"])
    for name in "012":
        (tmp_path / "images" / f"{name}.png").touch()
    request = [str(tmp_path / "table.csv"), "--output", "o", "--label-column", "kind"]
    source = parse_audit(request).source
    assert (source.output, source.classes) == ("o", ("cat", "dog"))
    assert "a table of images: name, kind" in capsys.readouterr().out
    elsewhere = (tmp_path / "images").rename(tmp_path.parent / f"{tmp_path.name}-images")
    source = parse_audit([*request, "--images", str(elsewhere), "--holdout", "0.5"]).source
    assert isinstance(source, Folder)
    assert (source.images, source.holdout, source.label_column) == (str(elsewhere), 0.5, "kind")
    assert "--images" not in capsys.readouterr().out


def test_what_a_table_leaves_open_is_asked_for_before_anything_is_packed(tmp_path: Path) -> None:
    (tmp_path / "alone.png").touch()
    table = tmp_path / "table.csv"
    table.write_text(
        "\n".join(["name,kind,rater", *(f"alone.png,{kind},{rater}" for kind in "ab" for rater in "xyzxyz")])
    )
    with pytest.raises(SettingError, match=r"--label-column must say which column holds the labels, kind or rater"):
        _ = parse_audit([str(table), "--output", "o"]).source
    (tmp_path / "alone.png").unlink()
    with pytest.raises(SettingError, match=r"the images of 'name' are not beside it: --images names the folder"):
        _ = parse_audit([str(table), "--output", "o", "--label-column", "kind"]).source


def test_a_folder_holds_one_audit(tmp_path: Path) -> None:
    folder = AuditFolder(str(tmp_path / "audit"))
    folder.begin(["folder", "--classes", "one"])
    folder.begin(["folder", "--training.epochs", "3"])  # nothing was packed yet
    (tmp_path / "audit" / "data").mkdir()
    (tmp_path / "audit" / "data" / "dataset.json").touch()
    folder.begin(["folder", "--placement.num-workers", "2", "--training.epochs", "3", "--placement.use-gpu"])
    with pytest.raises(SettingError, match=r"--output must be new for other arguments.*--training\.epochs 3"):
        folder.begin(["folder", "--training.epochs", "4"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(SettingError, match="--output must be new, or the folder of an audit"):
        AuditFolder(str(tmp_path / "mine")).begin([])


def test_a_fold_is_the_whole_run_without_some_rows_and_needs_no_features_of_them(tmp_path: Path) -> None:
    whole = RunConfig(name="run", storage_path=str(tmp_path))
    fold = fold_settings(whole, (1, 3))
    assert (fold.data.fold, fold.uri) == ((1, 3), f"{tmp_path}/folds/fold-1-of-3")
    assert (fold.loss, fold.model, fold.optim) == (whole.loss, whole.model, whole.optim)
    features = replace(whole, index=replace(whole.index, space="feature"), loss=replace(whole.loss, warmup_epochs=2.0))
    assert fold_settings(features, (1, 3)).loss.recipe == "ce"
    with pytest.raises(SettingError, match="folds"):
        parse_audit(["x", "--output", "o", "--folds", "1"])


def test_folds_that_are_done_are_not_trained_again_and_make_one_judgement_of_all(tmp_path: Path) -> None:
    dataset = Dataset.open(toy_dataset(tmp_path))
    whole = RunConfig(name="run", storage_path=str(tmp_path / "audit"))
    whole = replace(whole, data=replace(whole.data, dataset=dataset.uri))
    probs_NC = np.random.default_rng(0).dirichlet(np.ones(CLASSES), TRAIN).astype(np.float32)
    for k in range(3):
        ids_n = np.arange(k, TRAIN, 3)
        write_outputs(f"{fold_settings(whole, (k, 3)).uri}/{LEFT_OUT}", dataset.info, ids_n, probs_NC[ids_n])
    judge_folds(whole, dataset, 3)
    found_NC = find_out_of_fold(whole.uri, dataset)
    assert found_NC is not None
    np.testing.assert_array_equal(found_NC, probs_NC)


def test_the_end_names_what_a_person_can_act_on(tmp_path: Path) -> None:
    dataset = Dataset.open(toy_dataset(tmp_path))
    labels_N = dataset.labels("train")
    proposed_N = labels_N.copy()
    proposed_N[[8, 4, 12, 5]] = [1, 1, 2, 0]  # labels a, a, a, b
    suspicion_N = np.zeros(TRAIN)
    suspicion_N[[8, 4, 12, 5]] = [0.9, 0.8, 0.7, 0.6]
    probs_NC = np.full((TRAIN, CLASSES), 1 / CLASSES, np.float32)
    findings = Findings(
        labels_N=labels_N,
        uncertainty_N=np.zeros(TRAIN, np.float32),
        probs_NC=probs_NC,
        aggregated_NC=probs_NC,
        suspicion_N=suspicion_N,
        expected_C=np.zeros(CLASSES),
        proposed_N=proposed_N,
    )
    copies = tmp_path / "duplicates.csv"
    rows = ["1,exact,0,k0,train,a", "1,exact,70,k70,holdout,a", "2,near,3,k3,train,d", "2,near,4,k4,train,a"]
    copies.write_text("\n".join(["group,kind,id,key,split,label", *rows]) + "\n")
    end = AuditEnd(dataset=dataset, findings=findings, copies=str(copies), folder="A", run="A/run")
    lines = closing_lines(end)
    assert 8 <= len(lines) <= 10
    said = "\n".join(lines)
    assert f"audited: {TRAIN} images of {CLASSES} classes" in said
    assert "expected wrong: 0 labels (0%), or" in said
    assert "if none is ambiguous; 4 by suspicion in A/suspects.csv" in said
    assert "most doubted: a (20% of its 15), b (7% of its 15)" in said
    assert "most frequent: a to b 2, a to c 1, b to a 1" in said
    assert "look first at: k8 (a to b), k4 (a to b), k12 (a to c)" in said
    assert "copies: 2 groups of 4 images, 1 across splits, 1 with different labels" in said
    assert json.loads(json.dumps(end.figures()))["suspects"] == 4
    assert vars(count_copies(str(copies))) == {"groups": 2, "images": 4, "across_splits": 1, "of_several_labels": 1}


def test_the_list_begins_with_as_many_as_are_expected_to_be_wrong(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, rows=1400, pool=16, pixels=48)
    end = AuditEnd(dataset=run.dataset, findings=run.findings, copies=None, folder="A", run="A/run")
    expected = run.findings.wrong_labels
    first_n, others_n = np.split(end.suspects_n, [expected.num_listed])
    assert 0 < len(first_n) < len(end.suspects_n)
    assert set(first_n.tolist()) == set(np.flatnonzero(expected.is_listed_N).tolist())
    assert (run.findings.proposed_N[others_n] != run.findings.labels_N[others_n]).all()
    assert (np.diff(run.findings.rank_N[first_n]) > 0).all()
    assert (np.diff(run.findings.rank_N[others_n]) > 0).all()
    said = "\n".join(closing_lines(end))
    assert f"expected wrong: {len(first_n)} labels" in said
    assert f"if none is ambiguous; {len(end.suspects_n):,} by suspicion in A/suspects.csv" in said
    assert len(said.splitlines()) <= 10
