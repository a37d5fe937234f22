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

from ldlva_dist.bank.copy_on_write import FrozenRows
from ldlva_dist.bank.records import BankSpec, Outputs, blank
from ldlva_dist.bank.tensor_file import Column, Stored, TensorFile, read_header
from ldlva_dist.checkpoint.saved_files import BANK_FOLDER
from ldlva_dist.errors import DataError
from ldlva_dist.storage import checksums
from ldlva_dist.storage.checksums import Files, Reader

FORMAT_VERSION = 2
GRAPH = "graph_"
YOUNG = "young_"
MOST_ROWS = 1 << 40
READABLE = (1, 2)
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
class Restored:
    """What the parts of a checkpoint hold of a range of ids."""

    old: Outputs
    """The rows that a read of the checkpoint's step sees."""
    young: Outputs
    """The rows that become visible after it."""
    graphs: Mapping[str, NDArray[np.int32]]
    """Rows [n, K] of the graphs found anew, by name."""

    def newest(self, momentum: float) -> Outputs:
        """All rows, the young ones written."""
        self.old.put(self.young, momentum)
        return self.old


def part_file(
    old: FrozenRows, young: Outputs, header: PartHeader, graphs: Mapping[str, NDArray[np.int32]] | None = None
) -> TensorFile:
    """One part: the rows that a read of ``step`` sees, and the young rows that become visible after it.

    ``graphs`` are the rows [n, K] of graphs found anew, named ``graph_1`` and so on.
    """
    values = {"start": header.start, "stop": header.stop, "step": header.step, "format_version": FORMAT_VERSION}
    names = young.records.dtype.names or ()
    columns = {name: old.column(name) for name in names}
    columns |= {YOUNG + name: Column.of(young.records[name]) for name in names if name != "versions"}  # all of step - 1
    columns |= {"young_ids": Column.of(young.ids)}
    columns |= {name: Column.of(rows) for name, rows in (graphs or {}).items()}
    return TensorFile(columns, {"bank": json.dumps(values)})


def read_part_header(file: Reader) -> tuple[PartHeader, list[Stored]]:
    """What a part holds, and its columns, which follow in the file."""
    metadata, columns = read_header(file)
    try:
        values = json.loads(metadata["bank"])
        version = values.pop("format_version")
        if version not in READABLE:
            raise DataError(
                f"a bank checkpoint has format_version {version}, this program reads up to {FORMAT_VERSION}"
            )
        header = PartHeader(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"its header says nothing of a bank ({str(error)[:100]})") from error
    numbers = header.start, header.stop, header.step
    if any(type(number) is not int for number in numbers) or not 0 <= header.start <= header.stop <= MOST_ROWS:
        raise DataError(f"its header says ids {header.start!r:.20}..{header.stop!r:.20} of step {header.step!r:.20}")
    return header, columns


def unpack(files: Files, start: int, stop: int, spec: BankSpec, step: int | None = None) -> Restored:
    """Rows start..stop-1 out of parts that may be cut elsewhere; parts without any of them are not read.

    Raises:
        DataError: for a part that is damaged, missing, of another form or (where one is given) of another ``step``, and
            where an id is in none of them.
    """
    old, graphs, youngs = blank(start, stop, spec), dict[str, NDArray[np.int32]](), [blank(0, 0, spec)]
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
            youngs.append(_take(file, header, columns, old, graphs, spec))
            is_held[max(start, header.start) - start : min(stop, header.stop) - start] = True
    if not is_held.all():
        raise DataError(f"the bank of the checkpoint lacks {np.count_nonzero(~is_held)} of the ids {start}..{stop - 1}")
    ids, records = (np.concatenate([getattr(young, name) for young in youngs]) for name in ("ids", "records"))
    order = np.argsort(ids)
    return Restored(old=old, young=Outputs(ids=ids[order], records=records.take(order)), graphs=graphs)


def newest(files: Files, num_rows: int, spec: BankSpec) -> tuple[Outputs, Mapping[str, NDArray[np.int32]]]:
    """All rows of a checkpoint with the young ones written, and its graphs, for evaluation."""
    restored = unpack(files, 0, num_rows, spec)
    return restored.newest(spec.momentum), restored.graphs


def _take(
    file: Reader,
    header: PartHeader,
    columns: Iterable[Stored],
    old: Outputs,
    graphs: dict[str, NDArray[np.int32]],
    spec: BankSpec,
) -> Outputs:
    """Copy a part's rows of the ids of ``old`` there and into ``graphs``; its young rows among them."""
    start, stop, young = int(old.ids[0]), int(old.ids[-1]) + 1, dict[str, NDArray[Any]]()
    for column in columns:
        if column.name.startswith(YOUNG):
            young[column.name.removeprefix(YOUNG)] = column.whole(file)
            continue
        if column.name.startswith(GRAPH):
            target = graphs.setdefault(column.name, np.empty((stop - start, *column.shape[1:]), dtype=np.int32))
        else:
            target = old.records[column.name]
        for first, rows in column.pieces(file):
            begin = header.start + first
            low, high = max(start, begin), min(stop, begin + len(rows))
            if low < high:
                target[low - start : high - start] = rows[low - begin : high - begin]
    is_mine = (young["ids"] >= start) & (young["ids"] < stop)
    records = blank(0, int(is_mine.sum()), spec).records
    records["versions"] = header.step - 1
    for name in set(young) - {"ids"}:
        records[name] = young[name][is_mine]
    return Outputs(ids=young["ids"][is_mine], records=records)


def _check_columns(uri: str, header: PartHeader, columns: Sequence[Stored]) -> None:
    """DataError unless a part has all columns, each with a row for each id or each young id."""
    graphs = [column for column in columns if column.name.startswith(GRAPH)]
    lengths = {column.name: column.shape[0] for column in columns if column not in graphs}
    stores_int8 = any(column.name == "features" and column.dtype == np.int8 for column in columns)
    names = ["probs", "features", *(["scales"] if stores_int8 else [])]
    rows, young = header.stop - header.start, lengths.get("young_ids", 0)
    wanted = dict.fromkeys(["versions", *names], rows) | dict.fromkeys(
        [YOUNG + name for name in ["ids", *names]], young
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
