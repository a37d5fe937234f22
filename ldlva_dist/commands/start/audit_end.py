"""What an audit ends with: ten lines that a person can act on. N = audited samples, C = classes, n = suspects."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.analysis.label_findings import FILE, Findings
from ldlva_dist.commands.labels.report import FILE as PAGE
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import REJECTED
from ldlva_dist.storage.csv_file import read_csv

MOST = 3
"""Classes, swaps and keys that a line names."""


@dataclass(frozen=True, kw_only=True)
class CopyCounts:
    """Of the list of images that are there more than once."""

    groups: int
    images: int
    across_splits: int
    """Groups with members in several splits."""
    of_several_labels: int
    """Groups whose members have different labels: one of them is wrong, or the picture is ambiguous."""


@dataclass(frozen=True, kw_only=True)
class AuditEnd:
    """A finished audit."""

    dataset: Dataset
    findings: Findings
    copies: str | None
    """The list of images that are there more than once; None where nobody looked."""
    folder: str
    run: str

    @cached_property
    def suspects_n(self) -> NDArray[np.int64]:
        """[n] ids: as many as are expected to be wrong, then the others that the run would change, by suspicion."""
        findings = self.findings
        listed_N = findings.wrong_labels.is_listed_N
        ids_n = np.flatnonzero(listed_N | (findings.proposed_N != findings.labels_N))
        return ids_n[np.lexsort((findings.rank_N[ids_n], ~listed_N[ids_n]))]

    @cached_property
    def copy_counts(self) -> CopyCounts | None:
        """What the list of copies holds."""
        return None if self.copies is None else count_copies(self.copies)

    def figures(self) -> dict[str, Any]:
        """For programs."""
        counts = self.copy_counts
        return {
            "audited": self.dataset.info.num_train,
            "rejected": self.dataset.info.num_rejected,
            "expected_wrong": self.findings.wrong_labels.expected,
            "at_most_wrong": self.findings.wrong_labels.at_most,
            "listed": self.findings.wrong_labels.num_listed,
            "suspects": len(self.suspects_n),
            "copies": None if counts is None else vars(counts),
        }


def closing_lines(end: AuditEnd) -> list[str]:
    """What was looked at, what is wrong, and what to do about it."""
    info, folder = end.dataset.info, end.folder
    rejected = f"; {info.num_rejected:,} rows rejected: {folder}/data/{REJECTED}" if info.num_rejected else ""
    lines = [f"audited: {info.num_train:,} images of {len(info.class_names)} classes{rejected}"]
    lines += _suspects(end)
    if end.copy_counts is not None:
        lines.append(_copies(end.copy_counts, f"{end.copies}"))
    return [
        *lines,
        f"look: {end.run}/{PAGE} (arrows choose, m marks, e exports the marks); every image: {FILE} beside it",
        f"correct: python jobs/make_shards.py relabel --dataset {folder}/data --name corrected --marked MARKS.csv",
        f"in another tool: python jobs/exchange.py write --run {end.run} --format label-studio --output TASKS",
    ]


def count_copies(uri: str) -> CopyCounts:
    """Read the list that ``packing.near_copies`` wrote."""
    table = read_csv(uri, ("group", "split", "label"))
    splits, labels = defaultdict(set), defaultdict(set)
    for group, split, label in zip(*(table[name].to_pylist() for name in ("group", "split", "label")), strict=True):
        splits[group].add(split)
        labels[group].add(label)
    return CopyCounts(
        groups=len(splits),
        images=len(table),
        across_splits=sum(len(found) > 1 for found in splits.values()),
        of_several_labels=sum(len(found) > 1 for found in labels.values()),
    )


def _suspects(end: AuditEnd) -> Iterator[str]:
    findings, names, ids_n = end.findings, end.dataset.info.class_names, end.suspects_n
    found, uri = findings.wrong_labels, f"{end.folder}/suspects.csv"
    least, most = (
        f"{count:,} labels ({count / len(findings.labels_N):.0%})" for count in (found.num_listed, found.at_most)
    )
    yield f"expected wrong: {least}, or {most} if none is ambiguous; {len(ids_n):,} by suspicion in {uri}"
    if not len(ids_n):
        return
    given_C = np.bincount(findings.labels_N, minlength=len(names))
    share_C = np.bincount(findings.labels_N[ids_n], minlength=len(names)) / np.maximum(given_C, 1)
    worst = np.argsort(-share_C, kind="stable")[:MOST].tolist()
    yield f"most doubted: {_joined(f'{names[c]} ({share_C[c]:.0%} of its {given_C[c]:,})' for c in worst)}"
    swaps = zip(findings.labels_N[ids_n].tolist(), findings.proposed_N[ids_n].tolist(), strict=True)
    pairs = Counter((given, proposed) for given, proposed in swaps if given != proposed)
    yield f"most frequent: {_joined(f'{names[a]} to {names[b]} {n:,}' for (a, b), n in pairs.most_common(MOST))}"
    first_m = ids_n[:MOST]
    keys = dict(zip(np.sort(first_m).tolist(), _keys(end.dataset, np.sort(first_m)), strict=True))
    looks = (f"{keys[i]} ({names[findings.labels_N[i]]} to {names[findings.proposed_N[i]]})" for i in first_m.tolist())
    yield f"look first at: {_joined(looks)}"


def _copies(counts: CopyCounts, uri: str) -> str:
    if not counts.groups:
        return "copies: none"
    return (
        f"copies: {counts.groups:,} groups of {counts.images:,} images, {counts.across_splits:,} across splits, "
        f"{counts.of_several_labels:,} with different labels: {uri}"
    )


def _keys(dataset: Dataset, ids_m: NDArray[np.int64]) -> Sequence[str]:
    return dataset.take(["key"], ids_m)["key"].to_pylist()


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(parts)
