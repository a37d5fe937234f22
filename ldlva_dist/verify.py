"""Read a whole data set again on the cluster, and say everything that is wrong with it: one task a shard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ldlva_dist.data.manifest import DatasetInfo, read_info
from ldlva_dist.data.pieces import run_pieces
from ldlva_dist.data.verify import MAX_FINDINGS, check_manifest, check_shard
from ldlva_dist.errors import DataError
from ldlva_dist.neighbors.graph import GraphInfo
from ldlva_dist.neighbors.verify import check_part, check_version, graphs_of


@dataclass(frozen=True)
class Verified:
    """A data set in which nothing is wrong."""

    info: DatasetInfo
    graphs: int


def verify(dataset_uri: str, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Verified:
    """Compare shards, manifest, ``dataset.json`` and neighbour graphs with each other, byte by byte.

    Raises:
        DataError: with the first findings, one a line, and the number of the others.
    """
    info = read_info(dataset_uri)
    graphs, findings = graphs_of(dataset_uri)
    for folder, graph in graphs:
        findings += check_version(info, folder, graph)
    parts = [
        (folder, graph, part)
        for folder, graph in graphs
        if not check_version(info, folder, graph)
        for part in range(-(-graph.num_samples // graph.part_rows))
    ]
    checks = _Checks(dataset_uri, info, parts)
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
        raise DataError(f"{dataset_uri} is damaged:\n" + "\n".join(lines + more))
    return Verified(info, len(graphs))


@dataclass(frozen=True)
class _Checks:
    """Piece 0 is the manifest, then come the shards, then the parts of the graphs."""

    dataset_uri: str
    info: DatasetInfo
    parts: Sequence[tuple[str, GraphInfo, int]]

    @property
    def count(self) -> int:
        return 1 + len(self.info.shards) + len(self.parts)

    def rows(self, number: int) -> int:
        """What a piece counts in the progress: the rows of a shard."""
        return self.info.shards[number - 1].rows if 0 < number <= len(self.info.shards) else 0

    def check(self, number: int) -> list[str]:
        """What is wrong in one piece."""
        if number == 0:
            return check_manifest(self.dataset_uri, self.info)
        if number <= len(self.info.shards):
            return check_shard(self.dataset_uri, self.info, number - 1)
        return check_part(self.dataset_uri, self.info, *self.parts[number - 1 - len(self.info.shards)])
