"""Outputs out-of-fold: kept, read back, refused where they are of something else, and in the place of the bank's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldlva_dist.analysis import suspicion
from ldlva_dist.analysis.out_of_fold import OUT_OF_FOLD, find_out_of_fold, read_outputs, write_outputs
from ldlva_dist.analysis.trained_run import TrainedRun
from ldlva_dist.errors import DataError
from ldlva_dist.index.graph import build_graph
from testing.synthetic_checkpoint import SILENT, small_config, write_checkpoint
from testing.synthetic_run import SyntheticRun, synthetic_run

N, K, C = 90, 4, 7


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    run = synthetic_run(tmp_path_factory.mktemp("set"), rows=(N, 1, 1), k=K, pool=40, pixels=48)
    build_graph(run.dataset, k_max=K)
    return run


def outputs(rows: int = N) -> np.ndarray:
    return np.random.default_rng(5).dirichlet(np.ones(C), rows).astype(np.float32)


def test_outputs_are_read_back_and_those_of_others_are_refused(made: SyntheticRun, tmp_path: Path) -> None:
    info, uri, ids = made.dataset.info, str(tmp_path / OUT_OF_FOLD), np.arange(N)
    assert find_out_of_fold(str(tmp_path), made.dataset) is None
    write_outputs(uri, info, ids, outputs())
    found = find_out_of_fold(str(tmp_path), made.dataset)
    assert found is not None
    np.testing.assert_array_equal(found, outputs())
    with pytest.raises(DataError, match="must be of the data set's version ffffffffffff, got"):
        read_outputs(uri, replace(info, content_hash="f" * 64), ids)
    with pytest.raises(DataError, match="must hold probabilities of 89 samples in id order"):
        read_outputs(uri, info, ids[:-1])
    for broken in (np.where(np.arange(C) == 3, np.nan, outputs()), outputs()[:, 1:]):
        write_outputs(uri, info, ids, broken)
        with pytest.raises(DataError, match="is damaged: it must hold probabilities of 90 samples"):
            find_out_of_fold(str(tmp_path), made.dataset)
    (tmp_path / OUT_OF_FOLD).write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="is damaged"):
        find_out_of_fold(str(tmp_path), made.dataset)


def test_out_of_fold_the_neighbours_say_what_was_said_of_them_by_who_did_not_see_them(
    made: SyntheticRun, tmp_path: Path
) -> None:
    saved, *_ = write_checkpoint(tmp_path, made, small_config(made))
    trained, probs = TrainedRun(saved, made.dataset), outputs()
    inside, outside = trained.findings(), trained.findings(probs)
    shares = trained.opinions(np.arange(N)).shares_nK
    np.testing.assert_array_equal(outside.probs_NC, probs)
    np.testing.assert_array_equal(outside.uncertainty_N, inside.uncertainty_N)
    for i in range(N):
        expected = sum(share * probs[j].astype(float) for share, j in zip(shares[i], made.graph_NK[i], strict=True))
        np.testing.assert_allclose(outside.aggregated_NC[i], expected, atol=1e-5)
    assert not outside.aggregated_NC[SILENT].any()
    assert np.abs(outside.aggregated_NC - inside.aggregated_NC).max() > 0.1
    weight = suspicion.model_weight(probs, outside.aggregated_NC, outside.labels_N, out_of_fold=True)
    pool = suspicion.pooled(probs, outside.aggregated_NC, weight)
    np.testing.assert_allclose(outside.suspicion_N, [1 - pool[i, y] for i, y in enumerate(outside.labels_N)])
