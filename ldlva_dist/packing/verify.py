"""Whether a data set is what it says: all of it, on the cluster; or the cheap part, before every training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest_checks import check_manifest
from ldlva_dist.errors import DataError
from ldlva_dist.index.graph import GraphInfo, read_graph, require_graph
from ldlva_dist.index.verify_graph import check_part, graphs_of
from ldlva_dist.packing.verify_shards import MAX_FINDINGS, check_shard
from ldlva_dist.runtime.pieces import run_pieces


def verify(dataset: Dataset, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> int:
    """Compare shards, manifest, ``dataset.json`` and neighbour graphs with each other, byte by byte.

    Returns:
        The number of neighbour graphs that were found sound.

    Raises:
        DataError: with the first findings, one a line, and the number of the others.
    """
    dataset.require_root()
    graphs, findings = graphs_of(dataset)
    parts = [(folder, graph, part) for folder, graph in graphs for part in range(graph.num_parts)]
    checks = _Checks(dataset, parts)
    total, done = sum(checks.rows(number) for number in range(checks.count)), 0
    found: dict[int, list[str]] = {}
    for number, lines in run_pieces(checks.check, range(checks.count)):
        found[number] = lines
        done += checks.rows(number)
        progress("verifying", done, total)
    findings += [line for number in sorted(found) for line in found[number]]
    if findings:
        lines = findings[:MAX_FINDINGS]
        more = [f"and {len(findings) - MAX_FINDINGS} more findings"] if len(findings) > MAX_FINDINGS else []
        raise DataError(f"{dataset.uri} is damaged:\n" + "\n".join(lines + more))
    return len(graphs)


def require_sound(dataset: Dataset, *, k: int = 0, quarantine: bool = False) -> None:
    """DataError unless manifest, ``dataset.json`` and, with ``k`` > 0, the graph of k neighbours fit each other.

    No shard is read: at most a second for a million rows. With a ``quarantine`` training images that cannot be where
    the manifest has them are left to the run, which lists them.
    """
    dataset.require_root()
    first, *others = check_manifest(dataset, training_places=not quarantine) or [""]
    if first:
        more = f" (and {len(others)} more: python jobs/make_shards.py verify {dataset.uri})" if others else ""
        raise DataError(f"{dataset.uri} is damaged: {first}{more}")
    if k:
        rows, step = dataset.info.num_train, require_graph(dataset, k).part_rows
        for first in range(0, rows, step):
            read_graph(dataset, first, min(step, rows - first), k)


@dataclass(frozen=True)
class _Checks:
    """Piece 0 is the manifest, then come the shards, then the parts of the graphs."""

    dataset: Dataset
    parts: Sequence[tuple[str, GraphInfo, int]]

    @property
    def count(self) -> int:
        return 1 + len(self.dataset.info.shards) + len(self.parts)

    def rows(self, number: int) -> int:
        """What a piece counts in the progress: the rows of a shard."""
        shards = self.dataset.info.shards
        return shards[number - 1].rows if 0 < number <= len(shards) else 0

    def check(self, number: int) -> list[str]:
        """What is wrong in one piece."""
        if number == 0:
            return check_manifest(self.dataset, keys=True)
        num_shards = len(self.dataset.info.shards)
        if number <= num_shards:
            return check_shard(self.dataset, number - 1)
        return check_part(self.dataset, *self.parts[number - 1 - num_shards])
