"""Data sets and runs for a notebook or a program: their tables as arrays, without a cluster. n = samples, C = classes.

``ldlva_dist.open_dataset`` and ``ldlva_dist.open_run`` are the doors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.analysis.label_findings import Findings, class_column, uncertainty_blocks
from ldlva_dist.analysis.suspects import as_issues_table, suspect_ids
from ldlva_dist.analysis.trained_run import Place, TrainedRun
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import decode
from ldlva_dist.dataset.manifest import SPLITS
from ldlva_dist.errors import SettingError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


@dataclass(frozen=True)
class SampleTable:
    """Columns of n samples, in the form that is wanted."""

    arrow: pa.Table

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.arrow)

    def pandas(self) -> "pd.DataFrame":
        """A data frame; classes are categories, probabilities lists."""
        return self.arrow.to_pandas()

    def numpy(self) -> dict[str, NDArray[Any]]:
        """Arrays [n], or [n, C] for lists of C numbers, by column; texts are objects, classes their names."""
        return {name: _array(self.arrow[name].combine_chunks()) for name in self.arrow.column_names}

    def torch(self) -> "dict[str, Tensor]":
        """Tensors [n] or [n, C] of the columns of numbers; classes are their indices, null is NaN. Texts are left out.

        The memory is not shared: a tensor may be written to.
        """
        import torch

        found = {}
        for name in self.arrow.column_names:
            column = self.arrow[name].combine_chunks()
            array = _array(column.indices if pa.types.is_dictionary(column.type) else column)
            if array.dtype.kind in "biuf":
                kind = np.int64 if array.dtype.kind in "iu" else array.dtype
                found[name] = torch.from_numpy(np.array(array, dtype=kind))
        return found


@dataclass(frozen=True)
class OpenedDataset:
    """A packed data set, or a version of one."""

    dataset: Dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, by index."""
        return self.dataset.info.class_names

    def samples(self, split: str | None = None, columns: Sequence[str] | None = None) -> SampleTable:
        """Rows of the manifest; ``label`` and ``original_label`` by the names of the classes.

        Args:
            split: train, holdout or test; None takes all.
            columns: Names of columns; None takes all (docs/reference/files.md lists them).

        Raises:
            SettingError: for a split that is none.
            DataError: for a column that the data set has not.
        """
        if split is not None and split not in SPLITS:
            raise SettingError(f"split must be {', '.join(SPLITS)} or None, got {split!r}")
        names = self.dataset.column_names() if columns is None else columns
        rows = range(self.dataset.num_rows) if split is None else self._ids(split)
        table = self.dataset.columns(names, first_id=rows.start, rows=len(rows))
        for name in {"label", "original_label"} & set(names):
            labels_n = table[name].to_numpy().astype(np.int64)
            table = table.set_column(table.column_names.index(name), name, class_column(labels_n, self.dataset.info))
        return SampleTable(table)

    def image(self, sample: int, channels: int = 3) -> NDArray[np.uint8]:
        """One image as it is stored.

        Args:
            sample: Its id.
            channels: 3 for colour, 1 for grey.

        Returns:
            [H, W, channels] pixels in 0..255.

        Raises:
            DataError: for a sample that there is not, or a damaged image.
        """
        return decode(self.dataset.images(range(sample, sample + 1)).read(sample), channels)

    def _ids(self, split: str) -> range:
        place = self.dataset.info.splits[split]
        return range(place.first_id, place.first_id + place.rows)


class OpenedRun:
    """A finished run with neighbours, by its last checkpoint."""

    def __init__(self, place: Place) -> None:
        """Read table, bank and weights.

        Raises:
            SettingError: for a run without neighbours, or on other data.
        """
        self.place, self._trained = place, TrainedRun(place.checkpoint, place.dataset)

    @cached_property
    def findings(self) -> Findings:
        """Everything that the run found out, as arrays by id."""
        return self._trained.findings()

    @property
    def dataset(self) -> OpenedDataset:
        """What the run was trained on."""
        return OpenedDataset(self.place.dataset)

    @property
    def samples(self) -> SampleTable:
        """What ``uncertainty.parquet`` holds: a row for each training sample, by id."""
        return SampleTable(pa.concat_tables(uncertainty_blocks(self.place.dataset, self.findings)))

    @property
    def predictions(self) -> SampleTable:
        """``id``, ``label``; ``probs`` [n, C], the network's, and ``neighbors`` [n, C], theirs; zeros are unknown."""
        findings = self.findings
        lists = {"probs": findings.probs_NC, "neighbors": findings.aggregated_NC}
        return SampleTable(
            pa.table(
                {
                    "id": np.arange(len(findings.labels_N)),
                    "label": class_column(findings.labels_N, self.place.dataset.info),
                    **{name: _lists(values_NC) for name, values_NC in lists.items()},
                }
            )
        )

    def suspects(self, first: int | None = None) -> SampleTable:
        """The samples whose label the run would change, the most suspicious first.

        Args:
            first: Most samples; None takes all.

        Returns:
            Columns ``id``, ``key``, ``given``, ``proposed``, ``score`` (suspicion in [0, 1]).
        """
        ids_n = suspect_ids(self.findings, first)
        table = as_issues_table(self.place.dataset, self.findings, ids_n)
        return SampleTable(table.select(["key", "given", "proposed", "score"]).add_column(0, "id", pa.array(ids_n)))


def _lists(values_NC: NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_NC.reshape(-1)), values_NC.shape[1])


def _array(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)
