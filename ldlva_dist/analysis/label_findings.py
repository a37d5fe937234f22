"""What a run found out about the labels of its training samples, and ``uncertainty.parquet``.

N = training samples, C = classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.analysis import metrics, suspicion
from ldlva_dist.analysis.wrong_label_list import WrongLabelList, list_wrong_labels
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import EXTRA, DatasetInfo, list_column

FILE = "uncertainty.parquet"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of every training sample, by id."""

    labels_N: NDArray[np.int64]
    """The given ones."""
    uncertainty_N: NDArray[np.float32]
    probs_NC: NDArray[np.float32]
    """The model's, when it last saw the sample; zeros where it never did."""
    aggregated_NC: NDArray[np.float32]
    """The neighbours'; zeros where there was none."""
    suspicion_N: NDArray[np.float64]
    """Combined score in [0, 1], high = the label is probably wrong."""
    expected_C: NDArray[np.float64]
    """Number of wrong labels of each class that is expected, by the labels around each label."""
    proposed_N: NDArray[np.int64]
    """The class that model and neighbours agree upon; where it is the label, there is nothing to propose."""

    @property
    def rank_N(self) -> NDArray[np.int64]:
        """Place by suspicion from 1, the most suspicious; ties by id."""
        rank_N = np.empty(len(self.labels_N), dtype=np.int64)
        rank_N[np.argsort(-self.suspicion_N, kind="stable")] = np.arange(1, len(rank_N) + 1)
        return rank_N

    @cached_property
    def wrong_labels(self) -> WrongLabelList:
        """The labels that are probably wrong: as many as are expected, listed by suspicion."""
        disputed = suspicion.count_by_confident_learning(self.probs_NC, self.labels_N).sum()
        return list_wrong_labels(self.expected_C, self.suspicion_N, self.labels_N, disputed)


def scores(findings: Findings) -> dict[str, NDArray[Any]]:
    """Every score of a run with neighbours that finds wrong labels, high = suspicious."""
    return {
        "uncertainty": findings.uncertainty_N,
        "neighbor_disagreement": suspicion.self_confidence(findings.aggregated_NC, findings.labels_N),
        **prediction_scores(findings.probs_NC, findings.labels_N),
        "suspicion": findings.suspicion_N,
    }


def prediction_scores(probs_NC: NDArray[Any], labels_N: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Scores that need nothing but predictions: self-confidence, margin and confident learning as cleanlab has them."""
    return {
        "one_minus_p_label": suspicion.self_confidence(probs_NC, labels_N),
        "self_confidence_adjusted": suspicion.self_confidence(suspicion.adjusted(probs_NC, labels_N), labels_N),
        "normalized_margin": suspicion.normalized_margin(probs_NC, labels_N),
        "normalized_margin_adjusted": suspicion.normalized_margin(suspicion.adjusted(probs_NC, labels_N), labels_N),
        "confident_learning": suspicion.confident_learning(probs_NC, labels_N),
    }


def write_uncertainty(run_uri: str, dataset: Dataset, findings: Findings) -> str:
    """Write RUN/uncertainty.parquet, :func:`uncertainty_blocks`; returns its place."""
    uri, sink, writer = storage.join(run_uri, FILE), pa.BufferOutputStream(), None
    for table in uncertainty_blocks(dataset, findings):
        writer = writer or pq.ParquetWriter(sink, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None, "a run has training samples"
    writer.close()
    storage.write_bytes(uri, sink.getvalue().to_pybytes())
    return uri


def uncertainty_blocks(dataset: Dataset, findings: Findings) -> Iterator[pa.Table]:
    """A row for each training sample in id order, some thousands at a time.

    Columns: ``id``; ``key``; ``label``, the given one, and ``proposed_label``, class names; ``uncertainty``;
    ``p_label``: the model's probability of the label; ``agreement``: the neighbours', null where no neighbour was
    reached; ``suspicion`` and ``rank``: the combined score, and the place by it from 1, the most suspicious;
    ``listed``: whether the label is on the list of probably wrong ones. Where the data set has votes, ``votes_entropy``
    in nats, null where a sample has none; and its extra columns.
    """
    rank_N, info = findings.rank_N, dataset.info
    agreement_N = suspicion.of_label(findings.aggregated_NC, findings.labels_N).astype(np.float32)
    is_silent_N = np.asarray(~findings.aggregated_NC.any(axis=1))
    p_label_N = suspicion.of_label(findings.probs_NC, findings.labels_N).astype(np.float32)
    more = [name for name in dataset.column_names() if name == "votes" or name.startswith(EXTRA)]
    for block in dataset.blocks(["id", "key", *more]):
        first = block["id"][0].as_py()
        rows = slice(first, min(first + len(block), info.num_train))
        if rows.start >= rows.stop:
            break
        block = block.slice(0, rows.stop - rows.start)
        yield pa.table(
            {
                "id": block["id"],
                "key": block["key"],
                "label": class_column(findings.labels_N[rows], info),
                "uncertainty": findings.uncertainty_N[rows],
                "p_label": p_label_N[rows],
                "agreement": pa.array(agreement_N[rows], mask=is_silent_N[rows]),
                "proposed_label": class_column(findings.proposed_N[rows], info),
                "suspicion": findings.suspicion_N[rows].astype(np.float32),
                "rank": rank_N[rows],
                "listed": findings.wrong_labels.is_listed_N[rows],
                **_of_manifest(block.select(more)),
            }
        )


def class_column(indices_n: NDArray[np.int64], info: DatasetInfo) -> pa.Array:
    """[n] the names of some classes, as a dictionary of all of them."""
    return pa.DictionaryArray.from_arrays(indices_n.astype(np.int16), pa.array(info.class_names))


def _of_manifest(block: pa.Table) -> dict[str, Any]:
    """The extra columns, and the entropy of the votes."""
    columns: dict[str, Any] = {name: block[name] for name in block.column_names if name.startswith(EXTRA)}
    if "votes" in block.column_names:
        entropy_n = metrics.vote_entropy(list_column(block["votes"]))
        columns["votes_entropy"] = pa.array(entropy_n.astype(np.float32), from_pandas=True)  # NaN becomes null
    return columns
