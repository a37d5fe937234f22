import numpy as np
import pytest

from ldlva_dist.bank.graph_versions import GraphVersions
from ldlva_dist.errors import NeighborServiceError

N, K = 5, 3


def rows(version: int) -> np.ndarray:
    return np.random.default_rng(version).integers(0, 100, (N, K)).astype(np.int32)


def filled(newest: int) -> GraphVersions:
    graphs = GraphVersions(rows(0))
    for version in range(1, newest + 1):
        graphs.expect(version)
        graphs.put(version, rows(version))
    return graphs


@pytest.mark.parametrize("newest", [0, 1, 2, 5])
def test_the_newest_two_graphs_are_held_whole(newest: int) -> None:
    graphs = filled(newest)
    assert graphs.versions == list(range(max(0, newest - 1), newest + 1))
    for version in graphs.versions:
        np.testing.assert_array_equal(graphs.rows(version), rows(version))
    assert graphs.has(newest)
    assert not graphs.has(newest + 1)
    assert graphs.num_bytes == len(graphs.versions) * N * K * 4


@pytest.mark.parametrize("newest", [0, 1, 2, 5])
def test_graphs_of_a_checkpoint_are_the_same_again(newest: int) -> None:
    graphs = filled(newest)
    again = GraphVersions.restored(rows(0), graphs.columns())
    assert again.versions == graphs.versions
    for version in graphs.versions:
        np.testing.assert_array_equal(again.rows(version), graphs.rows(version))


def test_a_graph_that_is_over_or_was_not_expected_is_refused() -> None:
    graphs = filled(3)
    with pytest.raises(NeighborServiceError, match="graph 1 was asked for after it was over"):
        graphs.rows(1)
    with pytest.raises(NeighborServiceError, match="expected was None"):
        graphs.put(4, rows(4))
    with pytest.raises(NeighborServiceError, match="graph 5 was begun while the newest is 3"):
        graphs.expect(5)
    graphs.expect(4)
    for first, part in ((1, rows(4)[1:]), (0, np.zeros((N + 1, K), np.int32)), (0, rows(4)[:, 1:])):
        with pytest.raises(NeighborServiceError, match=r"came with rows \("):
            graphs.put(4, part, first)
    assert graphs.versions == [2, 3]


def test_a_graph_that_comes_in_pieces_is_there_with_the_last_of_them() -> None:
    graphs = filled(2)
    graphs.expect(3)
    for first, stop in ((0, 2), (2, 3), (3, N)):
        assert graphs.versions == [1, 2]
        graphs.put(3, rows(3)[first:stop], first)
    assert graphs.versions == [2, 3]
    np.testing.assert_array_equal(graphs.rows(3), rows(3))
    assert graphs.rows(3).base is None, "a copy, or Ray would keep the piece"
