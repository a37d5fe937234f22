"""A data set and a run in three lines, as numpy, pandas and torch; no cluster, no import ahead."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ldlva_dist
from ldlva_dist.analysis.label_findings import write_uncertainty
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.index.graph import build_graph
from testing.synthetic_checkpoint import small_config, write_checkpoint
from testing.synthetic_run import SyntheticRun, synthetic_run

NOTEBOOKS = Path(__file__).parents[3] / "docs" / "notebooks"
N, K, C = 90, 4, 7


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    run = synthetic_run(tmp_path_factory.mktemp("set"), rows=(N, 9, 5), k=K, pool=40, pixels=48)
    build_graph(run.dataset, k_max=K)
    return run


@pytest.fixture(scope="module")
def run(made: SyntheticRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    write_checkpoint(folder, made, small_config(made))
    return str(folder)


def test_rows_of_a_data_set_come_in_every_form(made: SyntheticRun) -> None:
    opened = ldlva_dist.open_dataset(made.dataset.uri)
    names, labels = opened.class_names, made.dataset.labels("holdout")
    table = opened.samples("holdout", ["id", "key", "label", "valence"])
    assert len(table) == 9
    assert table.numpy()["id"].tolist() == list(range(N, N + 9))
    assert table.numpy()["label"].tolist() == [names[label] for label in labels]
    assert table.pandas()["label"].tolist() == [names[label] for label in labels]
    assert list(table.pandas().columns) == ["id", "key", "label", "valence"]
    tensors = table.torch()
    assert tensors.keys() == {"id", "label", "valence"}
    assert tensors["label"].tolist() == labels.tolist()
    tensors["label"] += 1
    assert table.torch()["label"].tolist() == labels.tolist()
    assert len(opened.samples()) == N + 14
    assert opened.samples().arrow.column_names[:2] == ["id", "key"]
    assert opened.image(3).shape == (48, 48, 3)
    assert opened.image(3, channels=1).shape == (48, 48, 1)


def test_what_a_run_found_comes_in_every_form(made: SyntheticRun, run: str, tmp_path: Path) -> None:
    opened = ldlva_dist.open_run(run)
    findings = opened.findings
    import pyarrow.parquet as pq

    written = pq.read_table(write_uncertainty(str(tmp_path), made.dataset, findings))
    assert opened.samples.pandas().equals(written.to_pandas())
    predictions = opened.predictions.numpy()
    np.testing.assert_array_equal(predictions["probs"], findings.probs_NC)
    np.testing.assert_array_equal(opened.predictions.torch()["neighbors"].numpy(), findings.aggregated_NC)
    suspects = opened.suspects(5).pandas()
    assert list(suspects.columns) == ["id", "key", "given", "proposed", "score"]
    changed_n = np.flatnonzero(findings.proposed_N != findings.labels_N)
    wanted = changed_n[np.argsort(opened.samples.numpy()["rank"][changed_n])][:5]
    assert suspects["id"].tolist() == wanted.tolist()
    assert suspects["score"].tolist() == findings.suspicion_N[wanted].tolist()
    assert opened.dataset.dataset == made.dataset
    assert len(opened.suspects()) == (findings.proposed_N != findings.labels_N).sum()


def test_what_cannot_be_opened_is_said(made: SyntheticRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a data set"):
        ldlva_dist.open_dataset(str(tmp_path))
    with pytest.raises(SettingError, match="must be a folder with a finished checkpoint"):
        ldlva_dist.open_run(str(tmp_path))
    opened = ldlva_dist.open_dataset(made.dataset.uri)
    with pytest.raises(SettingError, match="split must be train, holdout, test or None, got 'all'"):
        opened.samples("all")
    with pytest.raises(DataError, match="no column 'age'"):
        opened.samples(columns=["age"])


def test_nothing_is_imported_before_it_is_needed_and_no_cluster_is_started(made: SyntheticRun, run: str) -> None:
    program = f"""
import json, sys
import ldlva_dist
light = sorted({{name.partition(".")[0] for name in sys.modules}} & {{"ray", "torch", "numpy", "pyarrow", "pandas"}})
ldlva_dist.open_dataset({made.dataset.uri!r}).samples().numpy()
ldlva_dist.open_run({run!r}).suspects(3).torch()
print(json.dumps([light, "ray" in sys.modules and sys.modules["ray"].is_initialized()]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], False]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_on_drawn_faces(
    path: Path, run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code cells, in order; the first one names a run, and another is put in its place."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["language"]) == (4, "python")
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells[0].startswith("RUN = ")
    names: dict[str, object] = {"RUN": run}
    for number, cell in enumerate(cells[1:], 2):
        exec(compile(cell, f"{path.name}, code cell {number}", "exec"), names)
    assert "the network says the given label of" in capsys.readouterr().out
    assert all(not cell.get("outputs") for cell in notebook["cells"])
