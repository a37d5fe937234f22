"""The stored outputs of one id range, and their form in a checkpoint. n = rows held, C = classes, V = feature width."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ldlva_dist.errors import DataError
from ldlva_dist.messages import BankUpdate

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BankSpec:
    """What every shard of one bank agrees on."""

    num_classes: int
    feature_width: int
    dtype: Literal["float16", "float32"] = "float16"
    """What probabilities and features are stored in."""
    momentum: float = 0.0
    """Weight of the old value when a stored probability is overwritten."""
    timeout_s: float = 60.0
    """Longest wait of a shard for the other ranks' messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Rows of a bank: whole ranges of ids, or some of them."""

    ids: NDArray[np.int64]
    """[n] in ascending order, each once."""
    probs: NDArray[np.floating]
    """[n, C] zeros where never written."""
    features: NDArray[np.floating]
    """[n, V] zeros where never written."""
    versions: NDArray[np.int64]
    """[n] step of the last write; -1 = never."""

    def take(self, rows: NDArray[np.int64]) -> "Outputs":
        """A copy of some rows."""
        return Outputs(
            ids=self.ids[rows], probs=self.probs[rows], features=self.features[rows], versions=self.versions[rows]
        )

    def replaced(self, some: "Outputs") -> "Outputs":
        """A copy in which some rows have other values."""
        copy = self.take(np.arange(len(self.ids)))
        copy.assign(some)
        return copy

    def assign(self, some: "Outputs") -> None:
        """Overwrite some rows."""
        rows = np.searchsorted(self.ids, some.ids)
        self.probs[rows], self.features[rows], self.versions[rows] = some.probs, some.features, some.versions

    def put(self, young: "Outputs", momentum: float) -> "Outputs":
        """Write outputs, mixing probabilities with ``momentum`` parts of the old; returns the rows as they were."""
        rows = np.searchsorted(self.ids, young.ids)
        old = self.take(rows)
        self.assign(young)
        if momentum:
            mixed = momentum * old.probs.astype(np.float32) + (1 - momentum) * young.probs.astype(np.float32)
            self.probs[rows] = np.where(old.versions[:, None] >= 0, mixed, young.probs)
        return old


def blank(start: int, stop: int, spec: BankSpec) -> Outputs:
    """Rows start..stop-1, never written."""
    n = stop - start
    return Outputs(
        ids=np.arange(start, stop),
        probs=np.zeros((n, spec.num_classes), dtype=spec.dtype),
        features=np.zeros((n, spec.feature_width), dtype=spec.dtype),
        versions=np.full(n, -1, dtype=np.int64),
    )


def merge(updates: Sequence[BankUpdate], spec: BankSpec) -> Outputs:
    """All ranks' outputs of one step; an id that stands twice keeps its highest position."""
    if not updates:
        return blank(0, 0, spec)
    ids = np.concatenate([update.ids for update in updates])
    order = np.lexsort((np.concatenate([update.positions for update in updates]), ids))
    is_last = np.append(np.diff(ids[order]) != 0, True)[: len(ids)]
    kept = order[is_last]
    return Outputs(
        ids=ids[kept],
        probs=np.concatenate([update.probs for update in updates])[kept].astype(spec.dtype),
        features=np.concatenate([update.features for update in updates])[kept].astype(spec.dtype),
        versions=np.full(len(kept), updates[0].step, dtype=np.int64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHeader:
    """What a part of a checkpoint holds: the bank of ids start..stop-1 as of ``step``."""

    start: int
    stop: int
    step: int

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether it holds any of these ids."""
        return self.start < stop and start < self.stop


def pack(old: Outputs, young: Outputs, header: PartHeader) -> bytes:
    """One part: the rows that a read of ``step`` sees, and the young rows that become visible after it."""
    values = {"start": header.start, "stop": header.stop, "step": header.step, "format_version": FORMAT_VERSION}
    arrays = {"probs": old.probs, "features": old.features, "versions": old.versions}
    young_arrays = {"young_ids": young.ids, "young_probs": young.probs, "young_features": young.features}
    return save({**arrays, **young_arrays}, metadata={"bank": json.dumps(values)})  # one key, so that bytes repeat


def read_header(part: bytes) -> PartHeader:
    """What a part holds, without reading its arrays."""
    size = int.from_bytes(part[:8], "little")
    values = json.loads(json.loads(part[8 : 8 + size])["__metadata__"]["bank"])
    version = values.pop("format_version")
    if version != FORMAT_VERSION:
        raise DataError(f"a bank checkpoint has format_version {version}, this program reads {FORMAT_VERSION}")
    return PartHeader(**values)


def unpack(parts: Iterable[bytes], start: int, stop: int, spec: BankSpec) -> tuple[Outputs, Outputs]:
    """Old and young rows start..stop-1 out of parts that may be cut elsewhere; together they must hold every id."""
    old, youngs, is_held = blank(start, stop, spec), [blank(0, 0, spec)], np.zeros(stop - start, dtype=bool)
    for header, part in sorted(((read_header(part), part) for part in parts), key=lambda pair: pair[0].start):
        if not header.overlaps(start, stop):
            continue
        arrays = load(part)
        widths = arrays["probs"].shape[1], arrays["features"].shape[1]
        if widths != (spec.num_classes, spec.feature_width):
            raise DataError(
                f"the bank of the checkpoint has {widths[0]} classes and features of width {widths[1]}, "
                f"the run has {spec.num_classes} and {spec.feature_width}"
            )
        low, high = max(start, header.start), min(stop, header.stop)
        source, target = slice(low - header.start, high - header.start), slice(low - start, high - start)
        for name in ("probs", "features", "versions"):
            getattr(old, name)[target] = arrays[name][source]
        is_held[target] = True
        ids = arrays["young_ids"]
        inside = (ids >= start) & (ids < stop)
        youngs.append(
            Outputs(
                ids=ids[inside],
                probs=arrays["young_probs"][inside].astype(spec.dtype),
                features=arrays["young_features"][inside].astype(spec.dtype),
                versions=np.full(np.count_nonzero(inside), header.step - 1, dtype=np.int64),
            )
        )
    if not is_held.all():
        raise DataError(f"the bank of the checkpoint lacks {np.count_nonzero(~is_held)} of the ids {start}..{stop - 1}")
    return old, _concatenate(youngs)


def newest(parts: Sequence[bytes], spec: BankSpec) -> Outputs:
    """All rows of a checkpoint with the young ones written, for evaluation."""
    headers = [read_header(part) for part in parts]
    start, stop = min(header.start for header in headers), max(header.stop for header in headers)
    old, young = unpack(parts, start, stop, spec)
    old.put(young, spec.momentum)
    return old


def _concatenate(pieces: Sequence[Outputs]) -> Outputs:
    return Outputs(
        ids=np.concatenate([piece.ids for piece in pieces]),
        probs=np.concatenate([piece.probs for piece in pieces]),
        features=np.concatenate([piece.features for piece in pieces]),
        versions=np.concatenate([piece.versions for piece in pieces]),
    )
