"""A bank in a checkpoint: parts by id range, each a safetensors file of plain columns."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ldlva_dist.errors import DataError
from ldlva_dist.neighbors.outputs import BankSpec, Outputs, blank

FORMAT_VERSION = 2
GRAPH = "graph_"
READABLE = (1, 2)
"""Version 1 knew no int8, and is otherwise the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHeader:
    """What a part of a checkpoint holds: the bank of ids start..stop-1 as of ``step``."""

    start: int
    stop: int
    step: int

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether it holds any of these ids."""
        return self.start < stop and start < self.stop


def pack(
    old: Outputs, young: Outputs, header: PartHeader, graphs: Mapping[str, NDArray[np.int32]] | None = None
) -> bytes:
    """One part: the rows that a read of ``step`` sees, and the young rows that become visible after it.

    ``graphs`` are the rows [n, K] of graphs found anew, named ``graph_1`` and so on.
    """
    values = {"start": header.start, "stop": header.stop, "step": header.step, "format_version": FORMAT_VERSION}
    columns = _columns(old.records) | {f"young_{name}": column for name, column in _columns(young.records).items()}
    del columns["young_versions"]  # all of step - 1
    columns |= {"young_ids": young.ids} | dict(graphs or {})
    return save(columns, metadata={"bank": json.dumps(values)})  # one key: bytes repeat


def read_header(part: bytes) -> PartHeader:
    """What a part holds, without reading its arrays."""
    size = int.from_bytes(part[:8], "little")
    values = json.loads(json.loads(part[8 : 8 + size])["__metadata__"]["bank"])
    version = values.pop("format_version")
    if version not in READABLE:
        raise DataError(f"a bank checkpoint has format_version {version}, this program reads up to {FORMAT_VERSION}")
    return PartHeader(**values)


def unpack(parts: Iterable[bytes], start: int, stop: int, spec: BankSpec) -> tuple[Outputs, Outputs]:
    """Old and young rows start..stop-1 out of parts that may be cut elsewhere; together they must hold every id."""
    old, youngs, is_held = blank(start, stop, spec), [blank(0, 0, spec)], np.zeros(stop - start, dtype=bool)
    for header, part in sorted(((read_header(part), part) for part in parts), key=lambda pair: pair[0].start):
        if not header.overlaps(start, stop):
            continue
        columns = load(part)
        _check_form(columns, spec)
        low, high = max(start, header.start), min(stop, header.stop)
        source, target = slice(low - header.start, high - header.start), slice(low - start, high - start)
        for name in spec.record.names or ():
            old.records[name][target] = columns[name][source]
        is_held[target] = True
        ids = columns["young_ids"]
        inside = (ids >= start) & (ids < stop)
        columns["young_versions"] = np.full(len(ids), header.step - 1)
        young = blank(0, int(inside.sum()), spec).records
        for name in spec.record.names or ():
            young[name] = columns[f"young_{name}"][inside]
        youngs.append(Outputs(ids=ids[inside], records=young))
    if not is_held.all():
        raise DataError(f"the bank of the checkpoint lacks {np.count_nonzero(~is_held)} of the ids {start}..{stop - 1}")
    ids, records = (np.concatenate([getattr(young, name) for young in youngs]) for name in ("ids", "records"))
    return old, Outputs(ids=ids, records=records)


def unpack_graphs(parts: Iterable[bytes], start: int, stop: int) -> dict[str, NDArray[np.int32]]:
    """Rows start..stop-1 of the graphs that parts hold; parts of one bank hold the same graphs."""
    found: dict[str, list[NDArray[np.int32]]] = {}
    for header, part in sorted(((read_header(part), part) for part in parts), key=lambda pair: pair[0].start):
        rows = slice(max(start, header.start) - header.start, max(0, min(stop, header.stop) - header.start))
        for name, column in load(part).items():
            if name.startswith(GRAPH):
                found.setdefault(name, []).append(column[rows])
    return {name: np.concatenate(columns) for name, columns in found.items()}


def newest(parts: Sequence[bytes], spec: BankSpec) -> Outputs:
    """All rows of a checkpoint with the young ones written, for evaluation."""
    headers = [read_header(part) for part in parts]
    start, stop = min(header.start for header in headers), max(header.stop for header in headers)
    old, young = unpack(parts, start, stop, spec)
    old.put(young, spec.momentum)
    return old


def _columns(records: NDArray[np.void]) -> dict[str, NDArray[Any]]:
    """Records as arrays [n, ...]: versions, probs, features, and scales for int8."""
    return {name: np.ascontiguousarray(records[name]) for name in records.dtype.names or ()}


def _check_form(columns: Mapping[str, NDArray[Any]], spec: BankSpec) -> None:
    widths = columns["probs"].shape[1], columns["features"].shape[1]
    if widths != (spec.num_classes, spec.feature_width):
        raise DataError(
            f"the bank of the checkpoint has {widths[0]} classes and features of width {widths[1]}, "
            f"the run has {spec.num_classes} and {spec.feature_width}"
        )
    stored = columns["probs"].dtype.name, columns["features"].dtype.name
    if stored != (spec.probs_dtype, spec.features_dtype):
        raise DataError(
            f"the bank of the checkpoint stores probabilities as {stored[0]} and features as {stored[1]}, "
            f"the run as {spec.probs_dtype} and {spec.features_dtype} (bank.probs_dtype, bank.features_dtype)"
        )
