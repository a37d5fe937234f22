"""A bank in a checkpoint: parts by id range, each a safetensors file of plain columns.

Each shard writes its own part while it goes on, and reads the parts that hold its ids: nobody holds the whole bank.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.copy_on_write import CopyOnWriteRows
from ldlva_dist.bank.records import BankRows, BankSpec, as_bytes, as_records, blank, from_labels
from ldlva_dist.checkpoint.saved_files import BANK_FOLDER
from ldlva_dist.checkpoint.tensor_file import Column, Stored, TensorFile, read_header
from ldlva_dist.errors import DataError
from ldlva_dist.storage import checksums
from ldlva_dist.storage.checksums import Files, Reader

_FORMAT_VERSION = 2
GRAPH = "graph_"
PENDING = "young_"
"""Prefix of the columns of pending writes; all of them are of the step before the checkpoint's."""
_MOST_ROWS = 1 << 40
_READABLE = (1, 2)
"""Version 1 knew no int8, and is otherwise the same."""
_GRAPH = re.compile(r"graph_[1-9]\d{0,8}", re.ASCII)
_IDS = re.compile(r"/ids-(\d+)-(\d+)\.safetensors$")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHeader:
    """What a part of a checkpoint holds: the bank of ids start..stop-1 as of ``step``."""

    start: int
    stop: int
    step: int

    @property
    def name(self) -> str:
        """The part's name in the checkpoint."""
        return f"{BANK_FOLDER}/ids-{self.start:012d}-{self.stop:012d}.safetensors"

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether it holds any of these ids."""
        return self.start < stop and start < self.stop


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredRows:
    """What the parts of a checkpoint hold of a range of ids."""

    visible: BankRows
    """Rows that a read of the checkpoint's step sees."""
    pending: BankRows
    """Writes of the step before it, which reads see from the step after it on."""
    graphs: Mapping[str, NDArray[np.int32]]
    """Rows [n, K] of the graphs found anew, by name."""

    def newest(self, momentum: float) -> BankRows:
        """All rows, with the pending writes made visible."""
        self.visible.overwrite(self.pending, momentum)
        return self.visible


def part_file(
    rows: CopyOnWriteRows, pending: BankRows, header: PartHeader, graphs: Mapping[str, NDArray[np.int32]] | None = None
) -> TensorFile:
    """One part of a checkpoint of a step.

    Args:
        rows: As a read of the step sees them.
        pending: Writes of the step before, which reads see from the step after on.
        header: Range of ids, and the step.
        graphs: Rows [n, K] of the graphs found anew, named ``graph_1`` and so on.
    """
    values = {"start": header.start, "stop": header.stop, "step": header.step, "format_version": _FORMAT_VERSION}
    names = pending.records.dtype.names or ()
    columns = {name: rows.column(name) for name in names}
    columns |= {PENDING + name: Column.of(pending.records[name]) for name in names if name != "versions"}
    columns |= {f"{PENDING}ids": Column.of(pending.ids)}
    columns |= {name: Column.of(graph) for name, graph in (graphs or {}).items()}
    return TensorFile(columns, {"bank": json.dumps(values)})


def read_part_header(file: Reader) -> tuple[PartHeader, list[Stored]]:
    """What a part holds, and its columns, which follow in the file."""
    metadata, columns = read_header(file)
    try:
        values = json.loads(metadata["bank"])
        version = values.pop("format_version")
        if version not in _READABLE:
            raise DataError(
                f"a bank checkpoint has format_version {version}, this program reads up to {_FORMAT_VERSION}"
            )
        header = PartHeader(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"its header says nothing of a bank ({str(error)[:100]})") from error
    numbers = header.start, header.stop, header.step
    if any(type(number) is not int for number in numbers) or not 0 <= header.start <= header.stop <= _MOST_ROWS:
        raise DataError(f"its header says ids {header.start!r:.20}..{header.stop!r:.20} of step {header.step!r:.20}")
    return header, columns


def unpack(files: Files, start: int, stop: int, spec: BankSpec, step: int | None = None) -> RestoredRows:
    """Rows start..stop-1 out of parts that may be cut elsewhere; parts without any of them are not read.

    Raises:
        DataError: for a part that is damaged, missing, of another form or (where one is given) of another ``step``, and
            where an id is in none of them.
    """
    visible, graphs, pending = blank(start, stop, spec), dict[str, NDArray[np.int32]](), [blank(0, 0, spec)]
    is_held = np.zeros(stop - start, dtype=bool)
    for uri, entry in sorted(files.items()):
        named = _IDS.search(uri)
        if named and not (int(named[1]) < stop and start < int(named[2])):
            continue
        with checksums.open_file(uri, entry) as file:
            try:
                header, columns = read_part_header(file)
                if file.num_read + sum(column.num_bytes for column in columns) != entry["size"]:
                    raise DataError("its tensors are not as large as the file")
            except DataError as error:
                raise DataError(f"{uri} is damaged: {error}") from error
            if not header.overlaps(start, stop):
                continue
            if step is not None and header.step != step:
                raise DataError(f"the bank of the checkpoint must be of step {step}, got {uri} of step {header.step}")
            _check_columns(uri, header, columns)
            _check_form({column.name: column for column in columns}, spec)
            pending.append(_take(file, header, columns, visible, graphs, spec))
            is_held[max(start, header.start) - start : min(stop, header.stop) - start] = True
    if not is_held.all():
        raise DataError(f"the bank of the checkpoint lacks {np.count_nonzero(~is_held)} of the ids {start}..{stop - 1}")
    ids = np.concatenate([some.ids for some in pending])
    rows = np.concatenate([as_bytes(some.records) for some in pending])  # of records it leaves the padding undefined
    order = np.argsort(ids)
    records = as_records(rows.take(order, axis=0), spec.record)
    return RestoredRows(visible=visible, pending=BankRows(ids=ids[order], records=records), graphs=graphs)


def restore_or_start(
    files: Files,
    start: int,
    labels: NDArray[np.integer],
    spec: BankSpec,
    step: int | None = None,
    known_rows: int | None = None,
) -> RestoredRows:
    """Rows of ids start, start + 1, ... out of a checkpoint, as :func:`unpack` has them; without files, a new bank's.

    With ``known_rows`` it is a new bank's too, but ids below it hold what another run's steps had written, as of step
    0. Graphs that it found anew are left behind: they know the old rows alone.

    Args:
        files: Parts of the bank in the checkpoint; none for a new bank.
        start: Lowest id.
        labels: [n] label of each id, which a new bank may hold (``BankSpec.label_smoothing``).
        spec: What the bank stores.
        step: Step that the checkpoint must be of; None takes any.
        known_rows: Training samples of the other run that wrote the files; None: they are of this run.
    """
    if files and known_rows is None:
        return unpack(files, start, start + len(labels), spec, step)
    rows = blank(start, start + len(labels), spec) if spec.label_smoothing is None else from_labels(start, labels, spec)
    stop = min(start + len(labels), known_rows or 0)
    if files and start < stop:
        found = unpack(files, start, stop, spec).newest(spec.momentum)
        written = found.take(np.flatnonzero(found.records["versions"] >= 0))
        written.records["versions"] = 0
        rows.assign(written)
    return RestoredRows(visible=rows, pending=blank(0, 0, spec), graphs={})


def newest(files: Files, num_rows: int, spec: BankSpec) -> tuple[BankRows, Mapping[str, NDArray[np.int32]]]:
    """All rows of a checkpoint with its pending writes made visible, and its graphs, for evaluation."""
    restored = unpack(files, 0, num_rows, spec)
    return restored.newest(spec.momentum), restored.graphs


def _take(
    file: Reader,
    header: PartHeader,
    columns: Iterable[Stored],
    visible: BankRows,
    graphs: dict[str, NDArray[np.int32]],
    spec: BankSpec,
) -> BankRows:
    """Copy a part's rows of the ids of ``visible`` there and into ``graphs``; returns its pending writes of them."""
    start, stop, pending = int(visible.ids[0]), int(visible.ids[-1]) + 1, dict[str, NDArray[Any]]()
    for column in columns:
        if column.name.startswith(PENDING):
            pending[column.name.removeprefix(PENDING)] = column.whole(file)
            continue
        if column.name.startswith(GRAPH):
            target = graphs.setdefault(column.name, np.empty((stop - start, *column.shape[1:]), dtype=np.int32))
        else:
            target = visible.records[column.name]
        for first, rows in column.pieces(file):
            begin = header.start + first
            low, high = max(start, begin), min(stop, begin + len(rows))
            if low < high:
                target[low - start : high - start] = rows[low - begin : high - begin]
    is_mine = (pending["ids"] >= start) & (pending["ids"] < stop)
    records = blank(0, int(is_mine.sum()), spec).records
    records["versions"] = header.step - 1
    for name in set(pending) - {"ids"}:
        records[name] = pending[name][is_mine]
    return BankRows(ids=pending["ids"][is_mine], records=records)


def _check_columns(uri: str, header: PartHeader, columns: Sequence[Stored]) -> None:
    """DataError unless a part has all columns, each with a row for each id or each pending write."""
    graphs = [column for column in columns if column.name.startswith(GRAPH)]
    lengths = {column.name: column.shape[0] for column in columns if column not in graphs}
    stores_int8 = any(column.name == "features" and column.dtype == np.int8 for column in columns)
    names = ["probs", "features", *(["scales"] if stores_int8 else [])]
    rows, pending = header.stop - header.start, lengths.get(f"{PENDING}ids", 0)
    wanted = dict.fromkeys(["versions", *names], rows) | dict.fromkeys(
        [PENDING + name for name in ["ids", *names]], pending
    )
    are_graphs = all(
        _GRAPH.fullmatch(graph.name) and (graph.dtype, len(graph.shape), graph.shape[0]) == (np.int32, 2, rows)
        for graph in graphs
    )
    if lengths != wanted or not are_graphs:
        raise DataError(f"{uri} is damaged: its columns have the rows {lengths}, they must be {wanted}")


def _check_form(columns: Mapping[str, Stored], spec: BankSpec) -> None:
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
