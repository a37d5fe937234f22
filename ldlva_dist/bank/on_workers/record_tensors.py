"""The records of ``bank/records.py`` as tensors of a device: the same bytes, encoded and decoded where they are.

m = rows, C = classes, V = feature width. A row is some lanes of 8 bytes, which are moved whole, not byte by byte.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist.bank.records import INT8_MAX, STATIC, BankRows, BankSpec, as_bytes

LANE = 8
STATIC_BYTES = -(-STATIC.itemsize // LANE) * LANE


def row_bytes(spec: BankSpec) -> int:
    """Memory of a device that one row takes: its record, and its valence, arousal and label."""
    return spec.record.itemsize + STATIC_BYTES


def record_lanes(spec: BankSpec) -> int:
    """Lanes of a record; those of what never changes follow."""
    return spec.record.itemsize // LANE


def whole_rows(visible: BankRows, static: NDArray[np.void], spec: BankSpec) -> Tensor:
    """Lanes [n + 1, row] of some rows' records and static values; the last row is no sample's."""
    rows = np.zeros((len(static) + 1, row_bytes(spec)), dtype=np.uint8)
    rows[:-1, : spec.record.itemsize] = as_bytes(visible.records)
    rows[:-1, spec.record.itemsize :][:, : STATIC.itemsize] = as_bytes(static)
    return torch.from_numpy(rows).view(torch.int64)


def lanes_of(records: NDArray[np.void], spec: BankSpec) -> Tensor:
    """[n, record] a copy of records as lanes on the CPU."""
    numbers = np.array(as_bytes(records)).reshape(-1).view(np.int64)
    return torch.from_numpy(numbers.reshape(len(records), record_lanes(spec)))


def as_rows(lanes: Tensor, spec: BankSpec) -> NDArray[np.void]:
    """[n] the records in rows of lanes of the CPU, which stay where they are."""
    fields = spec.record.fields or {}
    names = list(fields)
    formats, offsets = [fields[name][0] for name in names], [fields[name][1] for name in names]
    sizes = {"itemsize": lanes.shape[1] * LANE}
    kind = np.dtype({"names": names, "formats": formats, "offsets": offsets, **sizes})  # pyright: ignore[reportCallIssue, reportArgumentType]
    return lanes.contiguous().numpy().view(np.uint8).reshape(-1).view(kind)


def encode(probs_mC: Tensor, features_mV: Tensor, versions_m: Tensor, *, spec: BankSpec) -> Tensor:
    """Lanes [m, record] of probabilities and features; the same bits as ``encode_records``, on any device."""
    values = {"versions": versions_m[:, None], "probs": probs_mC, "features": features_mV[:, : spec.feature_width]}
    if spec.features_dtype == "int8":
        values |= _quantized(values["features"])
    records = torch.zeros(len(probs_mC), spec.record.itemsize, dtype=torch.uint8, device=probs_mC.device)
    for name, value in values.items():
        _put(records, name, value, spec)
    return records.view(torch.int64)


def field(lanes: Tensor, name: str, spec: BankSpec) -> Tensor:
    """[m, ...] a copy of one field of some rows of lanes."""
    kind, begin = _place(name, spec)
    wanted = lanes.view(torch.uint8)[:, begin : begin + kind.itemsize]
    return wanted.contiguous().view(_torch_kind(kind)).reshape(len(lanes), *kind.shape)


def put(lanes: Tensor, name: str, values: Tensor, spec: BankSpec) -> None:
    """Overwrite one field of some rows of lanes; the values are rounded to its type."""
    _put(lanes.view(torch.uint8), name, values, spec)


def stored_features(lanes: Tensor, spec: BankSpec) -> Tensor:
    """[m, V] the features of some rows of lanes; floats as they are stored, int8 as float32."""
    features_mV = field(lanes, "features", spec)
    if spec.features_dtype != "int8":
        return features_mV
    return features_mV.float() * field(lanes, "scales", spec).reshape(-1, 1)


def static_of(lanes: Tensor, spec: BankSpec) -> tuple[Tensor, Tensor]:
    """Valence and arousal [m, 2], and labels [m], of some rows of lanes."""
    static = lanes[:, record_lanes(spec) :].contiguous().view(torch.uint8)
    va_m2 = static[:, :8].contiguous().view(torch.float32)
    return va_m2, static[:, 8:12].contiguous().view(torch.int32).reshape(-1).long()


def _quantized(features_mV: Tensor) -> dict[str, Tensor]:
    """int8 features and their scales; see ``encode_records``."""
    most_m1 = features_mV.abs().amax(dim=1, keepdim=True) if features_mV.shape[1] else features_mV.new_zeros(1, 1)
    # A GPU would multiply by the inverse of a plain number, which rounds otherwise.
    scale_m1 = most_m1 / torch.full_like(most_m1, INT8_MAX)
    is_plain_m1 = scale_m1.isfinite() & (scale_m1 > 0)
    rounded_mV = torch.round(features_mV.where(is_plain_m1, 0) / scale_m1.where(is_plain_m1, 1))
    return {"scales": scale_m1.where(scale_m1.isfinite(), torch.nan), "features": rounded_mV}


def _put(records: Tensor, name: str, values: Tensor, spec: BankSpec) -> None:
    kind, begin = _place(name, spec)
    if kind.itemsize:
        stored = values.to(_torch_kind(kind)).contiguous()
        records[:, begin : begin + kind.itemsize] = stored.view(torch.uint8).reshape(len(records), kind.itemsize)


def _place(name: str, spec: BankSpec) -> tuple[np.dtype, int]:
    """A field's type and where it begins in a record."""
    fields: Any = spec.record.fields
    kind, begin = fields[name][:2]
    return kind, begin


def _torch_kind(kind: np.dtype) -> torch.dtype:
    return getattr(torch, kind.base.name)
