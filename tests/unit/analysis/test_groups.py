"""Groups, votes and their entropy: against numbers checked by hand, and from a packed set to what a user reads."""

import io
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tyro
from scipy.stats import spearmanr

from ldlva_dist.analysis import metrics
from ldlva_dist.analysis.groups import LARGEST, judge_groups, suspect_groups
from ldlva_dist.analysis.label_findings import Findings, write_uncertainty
from ldlva_dist.analysis.scoring import against_columns
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import list_column
from ldlva_dist.inference.inputs import DatasetInputs
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.commands import Command
from ldlva_dist.packing.sources.common import Common
from ldlva_dist.records.console import DataConsole
from ldlva_dist.reporting.tables import print_evaluation
from testing.layouts import LAYOUTS
from testing.local_packing import pack_here


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("plus")
    LAYOUTS["affectnet-plus"].draw(root)
    line = f"{LAYOUTS['affectnet-plus'].arguments.format(root=root)} --keep-column gender --output set"
    command = tyro.cli(Command, args=shlex.split(line))
    assert isinstance(command, Common)
    names = command.stated().names
    pack_here(command.source(), root / "set", PackSettings(name="plus", class_names=names, holdout=0.0))
    return Dataset.open(str(root / "set"))


def test_groups_are_judged_by_themselves() -> None:
    extra = pa.table({"extra_sex": ["f", "m", "f", None], "extra_age": ["1", "1", "1", "1"]})
    labels_N = np.array([0, 1, 1, 0])
    probs_NC = np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.1, 0.9]], dtype=np.float32)
    votes_NC = np.array([[8, 2], [0, 0], [6, 4], [1, 0]], dtype=np.float32)
    found = judge_groups(extra, labels_N, probs_NC, {"votes": votes_NC})
    assert list(found) == ["sex", "age"]
    assert list(found["sex"]) == ["f", "m"]
    assert found["sex"]["f"]["accuracy"] == 0.5
    assert found["sex"]["f"]["votes"]["samples"] == 2
    assert found["sex"]["f"]["votes"]["kl"] == pytest.approx(0, abs=1e-6)
    assert "votes" not in found["sex"]["m"]
    assert found["age"]["1"]["accuracy"] == 0.5
    assert found["age"]["1"]["votes"]["kl"] == pytest.approx(-np.log(0.1) / 3, abs=1e-6)


def test_suspects_are_counted_in_each_group() -> None:
    generator = np.random.default_rng(0)
    values = generator.choice(["web", "film", ""], 90).tolist()
    values = [value or None for value in values]
    listed_N, doubted_N = generator.random((2, 90)) < [[0.2], [0.4]]
    found = suspect_groups(pa.table({"extra_source": values}), listed_N, doubted_N)["source"]
    assert set(found) == {"web", "film"}
    for value, group in found.items():
        mine = [i for i in range(90) if values[i] == value]
        assert group.samples == len(mine)
        assert group.listed == sum(listed_N[i] for i in mine)
        assert group.doubted == sum(doubted_N[i] for i in mine)


def test_the_largest_groups_of_a_column_are_judged() -> None:
    values = [str(n) for n in range(50)] + ["49", "48"]
    found = judge_groups(pa.table({"extra_x": values}), np.zeros(52, int), np.full((52, 2), 0.5), {})["x"]
    assert len(found) == LARGEST
    assert list(found)[:2] == ["48", "49"]


def test_entropy_of_votes_is_in_nats_and_unknown_without_votes() -> None:
    entropy_N = metrics.vote_entropy(np.array([[5, 5], [0.25, 0.75], [3, 0], [0, 0]]))
    np.testing.assert_allclose(entropy_N[:3], [np.log(2), -0.25 * np.log(0.25) - 0.75 * np.log(0.75), 0])
    assert np.isnan(entropy_N[3])


def test_rank_correlation_is_spearmans_over_what_is_known() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.integers(0, 9, 80).astype(float), generator.normal(size=80)
    other[::7] = np.nan
    known = np.isfinite(other)
    assert metrics.rank_correlation(one, other) == {
        "samples": int(known.sum()),
        "spearman": pytest.approx(spearmanr(one[known], other[known])[0]),
    }
    assert metrics.rank_correlation(np.ones(80), other)["spearman"] is None


def test_lists_that_are_not_there_are_rows_of_zeros() -> None:
    column = pa.chunked_array([[[1, 2], None], [[3, 4]]], pa.list_(pa.float32()))
    np.testing.assert_array_equal(list_column(column), [[1, 2], [0, 0], [3, 4]])


def test_a_packed_set_is_judged_against_its_votes_in_each_group(dataset: Dataset) -> None:
    rows = dataset.info.splits["test"].rows
    result = against_columns(dataset, "test", np.full((rows, 8), 0.125, dtype=np.float32))
    assert result["votes"]["samples"] == rows
    assert {value: group["samples"] for value, group in result["groups"]["subset"].items()} == {
        "challenging": 3,
        "easy": 3,
        "difficult": 2,
    }
    soft = np.array([0.72, *[0.04] * 7])
    assert result["groups"]["subset"]["easy"]["votes"]["kl"] == pytest.approx(
        (soft * np.log(soft / 0.125)).sum(), rel=1e-5
    )
    text = io.StringIO()
    about = {
        "dataset": "plus",
        "split": "test",
        "samples": rows,
        "steps": 1,
        "ambiguity": {"samples": 1, "spearman": 0.5},
    }
    print_evaluation({**about, **result}, console=DataConsole(file=text, width=80))
    assert "by subset" in text.getvalue()
    assert "challenging" in text.getvalue()
    assert "rank correlation 0.500" in text.getvalue()


def test_what_rides_along_stands_beside_uncertainties_and_predictions(dataset: Dataset, tmp_path: Path) -> None:
    rows = dataset.info.num_train
    labels_N, flat_NC = dataset.labels("train"), np.full((rows, 8), 0.125, dtype=np.float32)
    findings = Findings(
        labels_N=labels_N,
        uncertainty_N=np.zeros(rows, dtype=np.float32),
        probs_NC=flat_NC,
        aggregated_NC=flat_NC,
        suspicion_N=np.zeros(rows),
        expected_C=np.zeros(8),
        proposed_N=labels_N,
    )
    table = pq.read_table(write_uncertainty(str(tmp_path), dataset, findings))
    expected = dataset.columns(["extra_subset", "extra_gender"], rows=rows)
    assert table.select(["extra_subset", "extra_gender"]).equals(expected)
    soft = np.array([0.72, *[0.04] * 7])
    np.testing.assert_allclose(table["votes_entropy"].to_numpy(), -(soft * np.log(soft)).sum(), rtol=1e-5)
    (block,) = DatasetInputs(dataset=dataset, split="test").blocks(2, 5)
    wanted = dataset.columns(["key", "id", "extra_subset", "extra_gender"], first_id=rows + 2, rows=3)
    assert block.names.select(wanted.column_names).to_pylist() == wanted.to_pylist()
