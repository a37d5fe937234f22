"""The stored outputs of one id range: one record of plain bytes for each row, stored, sent and saved in that form.

n = rows held, C = classes, V = feature width, r = bytes of a record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.messages import LABEL, NEVER

INT8_MAX = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class BankSpec:
    """What every shard of one bank agrees on."""

    num_classes: int
    """0 stores no probabilities."""
    feature_width: int
    """0 stores no features."""
    probs_dtype: Literal["float16", "float32"] = "float16"
    features_dtype: Literal["int8", "float16", "float32"] = "float16"
    """int8 with one scale for each row."""
    momentum: float = 0.0
    """Weight of the old value when a stored probability is overwritten."""
    label_smoothing: float | None = None
    """A new bank holds each row's own label, smoothed by so much; None = it is empty."""
    own_row: bool = False
    """Whether a lookup gives each sample itself too, behind its neighbours."""
    timeout_s: float = 60.0
    """Longest wait of a shard for the other ranks' messages."""

    @property
    def record(self) -> np.dtype[np.void]:
        """One stored row. A scale stands there for int8 only: feature = scale x integer."""
        return _record(self.num_classes, self.probs_dtype, self.feature_width, self.features_dtype)


@cache  # every call of every step asks for it
def _record(num_classes: int, probs_dtype: str, feature_width: int, features_dtype: str) -> np.dtype[np.void]:
    scale = [("scales", "f4")] if features_dtype == "int8" else []
    probs, features = ("probs", probs_dtype, (num_classes,)), ("features", features_dtype, (feature_width,))
    return np.dtype([("versions", "i8"), *scale, probs, features], align=True)


STATIC = np.dtype([("va", "f4", (2,)), ("label", "i4")])
"""What never changes about a row."""


def bytes_per_row(spec: BankSpec, k: int) -> int:
    """Memory of one row of the bank: its record, its static values and the ids of k neighbours."""
    return spec.record.itemsize + STATIC.itemsize + k * np.dtype(np.int32).itemsize


def as_bytes(records: NDArray[Any]) -> NDArray[np.uint8]:
    """[n, itemsize] the same memory; numpy moves whole rows of bytes faster than records field by field."""
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)


def as_records(rows: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[np.void]:
    """[n] the same memory as records."""
    return rows.reshape(-1).view(dtype)


def encode_records(
    probs: NDArray[np.floating], features: NDArray[np.floating], spec: BankSpec, version: int
) -> NDArray[np.void]:
    """[n] records of probabilities [n, C] and features [n, V], written at step ``version``.

    An int8 feature is off by at most half its row's scale, which is the row's largest absolute value / 127.
    """
    records = np.zeros(len(probs), dtype=spec.record)
    records["versions"], records["probs"] = version, probs
    if spec.features_dtype != "int8":
        records["features"] = features
        return records
    scale = np.abs(features).max(axis=1, initial=0.0).astype(np.float32) / INT8_MAX
    is_plain = np.isfinite(scale) & (scale > 0)  # elsewhere the scale alone says it: 0 or NaN
    records["scales"] = np.where(np.isfinite(scale), scale, np.nan)
    records["features"] = np.rint(np.where(is_plain[:, None], features, 0) / np.where(is_plain, scale, 1)[:, None])
    return records


def decode_features(records: NDArray[np.void]) -> NDArray[np.floating]:
    """[..., V] the features of records [...]; floats as they are stored, int8 as float32."""
    if "scales" not in (records.dtype.names or ()):
        return records["features"]
    return records["features"] * records["scales"][..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BankRows:
    """Rows of a bank: whole ranges of ids, or some of them."""

    ids: NDArray[np.int64]
    """[n] in ascending order, each once."""
    records: NDArray[np.void]
    """[n]"""

    def take(self, rows: NDArray[np.int64]) -> "BankRows":
        """A copy of some rows."""
        return BankRows(ids=self.ids[rows], records=self.records.take(rows))

    def assign(self, some: "BankRows") -> None:
        """Overwrite some rows."""
        as_bytes(self.records)[np.searchsorted(self.ids, some.ids)] = as_bytes(some.records)

    def overwrite(self, outputs: "BankRows", momentum: float) -> "BankRows":
        """Write outputs, mixing probabilities with ``momentum`` parts of the old; returns the rows as they were."""
        rows = np.searchsorted(self.ids, outputs.ids)
        previous = self.take(rows)
        self.assign(outputs)
        if momentum:
            before, new = previous.records["probs"], outputs.records["probs"]
            mixed = momentum * before.astype(np.float32) + (1 - momentum) * new.astype(np.float32)
            self.records["probs"][rows] = np.where(previous.records["versions"][:, None] != NEVER, mixed, new)
        return previous


def blank(start: int, stop: int, spec: BankSpec) -> BankRows:
    """Rows start..stop-1, never written."""
    records = np.zeros(stop - start, dtype=spec.record)
    records["versions"] = NEVER
    return BankRows(ids=np.arange(start, stop), records=records)


def from_labels(start: int, labels: NDArray[np.integer], spec: BankSpec) -> BankRows:
    """Rows start, start + 1, ... that hold their own label, smoothed, and no features."""
    assert spec.label_smoothing is not None
    outputs = blank(start, start + len(labels), spec)
    outputs.records["versions"] = LABEL
    outputs.records["probs"] = spec.label_smoothing / spec.num_classes
    outputs.records["probs"][np.arange(len(labels)), labels] += 1 - spec.label_smoothing
    return outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One rank's outputs of one step for one shard."""

    step: int
    positions: NDArray[np.int32]
    """[n] place in the global batch."""
    ids: NDArray[np.int64]
    """[n]"""
    rows: NDArray[np.uint8]
    """[n, r] records."""


def merge_writes(writes: Sequence[Write], spec: BankSpec) -> BankRows:
    """All ranks' outputs of one step; an id that stands twice keeps its highest position."""
    writes = [write for write in writes if len(write.ids)]
    if not writes:
        return blank(0, 0, spec)
    ids = np.concatenate([write.ids for write in writes])
    order = np.lexsort((np.concatenate([write.positions for write in writes]), ids))
    is_last = np.append(np.diff(ids[order]) != 0, True)
    kept = order[is_last]
    rows = np.concatenate([write.rows for write in writes]).take(kept, axis=0)
    return BankRows(ids=ids[kept], records=as_records(rows, spec.record))
