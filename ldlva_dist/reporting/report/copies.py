"""Images that are there more than once, as the page shows them. n = samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldlva_dist.packing.near_copies import CopyGroup

MOST_GROUPS, MOST_MEMBERS = 200, 8
"""Groups on the page, and samples of one that are told by name."""


@dataclass(frozen=True, kw_only=True)
class Copies:
    """The groups of a data set: those that matter most, and how many there are of each kind."""

    groups: Sequence[CopyGroup]
    """At most MOST_GROUPS."""
    total: int
    images: int
    leaks: int
    """Groups in several splits."""
    of_several_labels: int

    @property
    def pictured(self) -> list[int]:
        """Ids whose pictures are shown: one of an exact group, as all are equal."""
        return [sample for group in self.groups for sample in _members(group)[: 1 if group.is_exact else None]]

    def as_json(self, picture_of: Mapping[int, int]) -> dict[str, Any]:
        """For the page's script; ``picture_of`` gives the line of a sample's picture, if it has one."""
        return {
            "total": self.total,
            "images": self.images,
            "leaks": self.leaks,
            "ofSeveralLabels": self.of_several_labels,
            "groups": [
                {
                    "exact": group.is_exact,
                    "leak": group.is_leak,
                    "several": group.has_several_labels,
                    "count": len(group.ids),
                    "id": _members(group),
                    "key": group.keys[:MOST_MEMBERS],
                    "split": group.splits[:MOST_MEMBERS],
                    "label": group.labels[:MOST_MEMBERS],
                    "picture": [picture_of.get(sample, -1) for sample in _members(group)],
                }
                for group in self.groups
            ],
        }


def choose_copies(groups: Sequence[CopyGroup]) -> Copies:
    """Those that differ in labels and splits first, then those that differ in one of both, the larger ones first."""
    order = sorted(groups, key=lambda group: (-(group.has_several_labels + group.is_leak), -len(group.ids)))
    return Copies(
        groups=order[:MOST_GROUPS],
        total=len(groups),
        images=sum(len(group.ids) for group in groups),
        leaks=sum(group.is_leak for group in groups),
        of_several_labels=sum(group.has_several_labels for group in groups),
    )


def labelled_apart(groups: Sequence[CopyGroup]) -> list[int]:
    """Ids of all training samples whose picture has another label too, in ascending order."""
    return sorted(
        sample
        for group in groups
        if group.has_several_labels
        for sample, split in zip(group.ids, group.splits, strict=True)
        if split == "train"
    )


def _members(group: CopyGroup) -> list[int]:
    return group.ids[:MOST_MEMBERS]
