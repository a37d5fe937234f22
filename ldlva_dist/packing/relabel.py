"""Labels that people corrected, as a new version of a data set. M = samples with a decision, n = rows of a row group.

Marks come in any format of ``exchange``, from one reviewer or several; they are merged by key. Every key, every class
and every given label that a file states is checked against the data set, so that a list made from another one, or from
another version, is refused instead of being applied to the wrong faces.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.relabel_rounds import RELABELLED, with_round
from ldlva_dist.dataset.versions import Change, new_version
from ldlva_dist.errors import DataError
from ldlva_dist.exchange.common_form import as_issues
from ldlva_dist.exchange.formats import read_marked
from ldlva_dist.packing.classes.class_index import ClassIndex

OnConflict = Literal["stop", "keep-given"]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What one reviewer decided of one sample."""

    uri: str
    """File that says so."""
    reviewer: str
    """As the file calls who decided, or else the file's own name."""
    given: int | None
    """Class that the file takes the sample to have; None where it says nothing."""
    decision: int


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """What is to be changed, by id in ascending order."""

    files: Sequence[str]
    """Names of the lists."""
    class_names: Sequence[str]
    ids_M: NDArray[np.int64]
    keys_M: Sequence[str]
    given_M: NDArray[np.int16]
    """The labels that the samples have."""
    decided_M: NDArray[np.int16]
    reviewers_M: Sequence[Sequence[str]]
    """Who decided so."""
    conflicts: Mapping[str, Sequence[Mark]]
    """Samples on which reviewers differ, by key; none of them is among the M."""

    @property
    def num_changed(self) -> int:
        """Samples that get another label; a list may confirm some."""
        return int((self.given_M != self.decided_M).sum())

    def conflict_lines(self) -> Iterator[str]:
        """For people: a sentence for each sample on which reviewers differ."""
        for key, marks in self.conflicts.items():
            said = ", ".join(f"{mark.reviewer}: {self.class_names[mark.decision]}" for mark in marks)
            yield f"conflict: {key}: {said}"

    def columns(self, block: pa.Table) -> Mapping[str, pa.Array]:
        """For ``versions.Change``: labels, the labels before all corrections, and which are known to be wrong.

        A corrected label is not known to be wrong any more; only where the parent says what was right before it was
        flipped on purpose is a third label known to be wrong too.
        """
        first, label_n = block["id"][0].as_py(), block["label"].to_numpy().copy()
        mine = slice(*np.searchsorted(self.ids_M, [first, first + len(block)]))
        row_m, old_m, new_m = self.ids_M[mine] - first, self.given_M[mine], self.decided_M[mine]
        label_n[row_m] = new_m
        original_n = block["original_label" if "original_label" in block.column_names else "label"].to_numpy()
        columns = {"label": pa.array(label_n), "original_label": pa.array(original_n)}
        if "flipped" in block.column_names:
            flipped_n = block["flipped"].to_numpy().astype(bool).copy()
            before_m = original_n[row_m]
            still_m = (old_m == new_m) | ((before_m != old_m) & (before_m != new_m))
            flipped_n[row_m] &= still_m
            columns["flipped"] = pa.array(flipped_n)
        return columns

    def as_round(self) -> pa.Table:
        """The decisions with the columns of ``relabel_rounds.ROUNDS``, but the round's name."""
        names = np.array(self.class_names, dtype=np.str_)
        return pa.table(
            {
                "id": self.ids_M,
                "key": pa.array(self.keys_M, pa.string()),
                "given": names[self.given_M],
                "decision": names[self.decided_M],
                "reviewers": pa.array(self.reviewers_M, pa.list_(pa.string())),
            }
        )


def read_corrections(uris: Sequence[str], dataset: Dataset) -> Corrections:
    """Lists of corrections for a data set, merged by key.

    Args:
        uris: Files in any format of ``exchange.formats``.
        dataset: What they are for; one pass over its manifest is made.

    Raises:
        DataError: for a file that is none of the formats or holds no decision, a key that the data set has not, and a
            label that is no class, or not the one that the sample has.
    """
    classes = ClassIndex(dataset.info.class_names)
    marks: dict[str, list[Mark]] = defaultdict(list)
    for uri in uris:
        decided = list(_marks(uri, classes))
        if not decided:
            raise DataError(f"{uri} has no decision: nothing was marked")
        for key, mark in decided:
            marks[key].append(mark)
    found = _found(dataset, marks)
    for key, (sample, label) in found.items():
        _check_given(key, sample, label, marks[key], dataset.info.class_names)
    conflicts = {key: marks[key] for key in found if len({mark.decision for mark in marks[key]}) > 1}
    agreed = [key for key in found if key not in conflicts]
    return Corrections(
        files=[uri.rpartition("/")[2] for uri in uris],
        class_names=dataset.info.class_names,
        ids_M=np.array([found[key][0] for key in agreed], dtype=np.int64),
        keys_M=agreed,
        given_M=np.array([found[key][1] for key in agreed], dtype=np.int16),
        decided_M=np.array([marks[key][0].decision for key in agreed], dtype=np.int16),
        reviewers_M=[list(dict.fromkeys(mark.reviewer for mark in marks[key])) for key in agreed],
        conflicts=conflicts,
    )


def relabel(dataset: Dataset, name: str, corrections: Corrections, *, round_name: str | None = None) -> Dataset:
    """Write the version ``name`` of a data set, or of one of its versions, with corrected labels.

    The labels before all corrections stay beside them, as ``original_label``; who changed what is in
    ``relabelled.parquet``. Samples on which reviewers differ keep their labels.

    Args:
        dataset: The parent, which stays as it is.
        name: Of the new version.
        corrections: What :func:`read_corrections` made for this data set.
        round_name: Of the round; None takes the version's.

    Raises:
        SettingError: for a version or a round that there is already.
        DataError: for lists that change nothing.
    """
    files, changed = ", ".join(corrections.files), corrections.num_changed
    if not changed:
        raise DataError(f"{files} changes nothing: every proposed label that stands is the given one")
    record = {
        "round": round_name or name,
        "relabelled": changed,
        "confirmed": len(corrections.ids_M) - changed,
        "conflicts": len(corrections.conflicts),
        "reviewers": sorted({who for names in corrections.reviewers_M for who in names}),
    }
    known = dataset.info.source.get("rounds")
    change = Change(
        line=f"{changed} labels corrected by hand",
        columns=corrections.columns,
        source={
            "relabelled": changed,
            "relabelled_by": files,
            "rounds": [*(known if isinstance(known, list) else ()), record],
        },
        files={RELABELLED: with_round(dataset, round_name or name, corrections.as_round())},
    )
    return new_version(dataset, name, change)


def _marks(uri: str, classes: ClassIndex) -> Iterator[tuple[str, Mark]]:
    """The decisions of a file, with the keys of their samples."""
    file = uri.rpartition("/")[2]
    for issue in as_issues(read_marked(uri)):
        if issue.decision is not None:
            place = f"{uri}, sample {issue.key!r:.100}"
            yield (
                issue.key,
                Mark(
                    uri=uri,
                    reviewer=issue.reviewer or file,
                    given=None if issue.given is None else _class(issue.given, classes, f"{place}: the given label"),
                    decision=_class(issue.decision, classes, f"{place}: the decision"),
                ),
            )


def _class(text: str, classes: ClassIndex, place: str) -> int:
    found = classes.find(text)
    if found is None:
        raise DataError(f"{place} must be a class ({', '.join(classes.class_names)}), got {text[:100]!r}")
    return found


def _found(dataset: Dataset, marks: Mapping[str, Sequence[Mark]]) -> dict[str, tuple[int, int]]:
    """Id and label of each key, in the order of the ids."""
    keys = pa.array(list(marks), pa.string())
    found: dict[str, tuple[int, int]] = {}
    for block in dataset.blocks(["id", "key", "label"]):
        rows = block.filter(pc.call_function("is_in", [block["key"]], pc.SetLookupOptions(keys)))
        ids, labels = rows["id"].to_pylist(), rows["label"].to_pylist()
        found |= dict(zip(rows["key"].to_pylist(), zip(ids, labels, strict=True), strict=True))
    lost = next((key for key in marks if key not in found), None)
    if lost is not None:
        raise DataError(f"{marks[lost][0].uri} was made from another data set: it has no sample {lost!r:.100}")
    return found


def _check_given(key: str, sample: int, label: int, marks: Sequence[Mark], names: Sequence[str]) -> None:
    for mark in marks:
        if mark.given not in (None, label):
            raise DataError(
                f"{mark.uri} was made from another data set or version: sample {sample} ({key!r}) has the label "
                f"{names[label]!r} here and {names[mark.given]!r} there"
            )
