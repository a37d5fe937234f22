"""What people changed before the run was trained, round by round, and whether the run agrees. N = training samples."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldlva_dist.analysis.label_findings import Findings
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.relabel_rounds import read_rounds, round_names

PAIRS = 10
"""Pairs of classes that are listed, the commonest."""


@dataclass(frozen=True, kw_only=True)
class RelabelRound:
    """One round of relabelling, of all splits."""

    name: str
    changed: int
    confirmed: int
    reviewers: Sequence[str]
    pairs: Sequence[tuple[str, str, int]]
    """Given class, decided class and how many labels were changed so; the commonest."""
    judged: int = 0
    """Changed training labels that a run with neighbours has an opinion of."""
    proposes_new: int = 0
    """Those of them whose new class network and neighbours propose."""
    proposes_former: int = 0
    """Those whose former class they propose still."""

    def __str__(self) -> str:
        """For the terminal."""
        said = f"round {self.name}: {self.changed} labels changed, {self.confirmed} confirmed, by {self.by}"
        return f"{said}; {self.agreement}" if self.judged else said

    @property
    def by(self) -> str:
        """The reviewers in a line."""
        return ", ".join(self.reviewers)

    @property
    def agreement(self) -> str:
        """Whether the run agrees."""
        return (
            f"of {self.judged} changed training labels the run proposes the new class for {self.proposes_new}, "
            f"the former for {self.proposes_former}"
        )


def relabel_rounds(dataset: Dataset, findings: Findings | None) -> list[RelabelRound]:
    """The rounds that led to a version, oldest first; none for a data set that nobody relabelled.

    Args:
        dataset: What the run was trained on.
        findings: The run's; None where it has no neighbours.
    """
    rounds = read_rounds(dataset)
    index = {name: number for number, name in enumerate(dataset.info.class_names)}
    found = []
    for name in round_names(rounds):
        rows = [row for row in rounds.to_pylist() if row["round"] == name]
        changed = [row for row in rows if row["given"] != row["decision"]]
        pairs = Counter((row["given"], row["decision"]) for row in changed)
        trained = [row for row in changed if row["id"] < dataset.info.num_train and findings is not None]
        proposed_n = np.array([], dtype=np.int64)
        if findings is not None:
            proposed_n = findings.proposed_N[np.array([row["id"] for row in trained], dtype=np.int64)]
        new_n, former_n = (np.array([index.get(row[which], -1) for row in trained]) for which in ("decision", "given"))
        found.append(
            RelabelRound(
                name=name,
                changed=len(changed),
                confirmed=len(rows) - len(changed),
                reviewers=sorted({who for row in rows for who in row["reviewers"]}),
                pairs=[(given, decision, count) for (given, decision), count in pairs.most_common(PAIRS)],
                judged=len(trained),
                proposes_new=int((proposed_n == new_n).sum()),
                proposes_former=int((proposed_n == former_n).sum()),
            )
        )
    return found
