"""Bytes that a run writes and reads. P = parameters, N = training samples, B = batch size."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldlva_dist.bank.graph_versions import GRAPHS_KEPT
from ldlva_dist.bank.records import BankSpec
from ldlva_dist.checkpoint.table_files import FILE_ROWS
from ldlva_dist.checkpoint.tensor_file import Column, TensorFile
from ldlva_dist.config import RunConfig, to_json
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training import build
from ldlva_dist.training.device.room import moment_names

LIST_ENTRY_BYTES, FACTS_BYTES = 120, 3000
"""Parts of state.json: a file's size and checksum, and everything else."""
SAMPLED_WINDOWS = 256
F32, I64 = np.dtype("f4"), np.dtype("i8")


def meta_model(config: RunConfig, info: DatasetInfo) -> LDLVA:
    """The run's network without memory for its weights."""
    with torch.device("meta"):
        return build.build_model(config, len(info.class_names), pretrained=False)


def planned_bank_spec(config: RunConfig, info: DatasetInfo) -> BankSpec:
    """What the run's bank stores; its network, whose width is asked for, takes no memory."""
    with torch.device("meta"):
        return build.bank_spec(config, info)


def checkpoint_bytes(config: RunConfig, info: DatasetInfo) -> dict[str, int]:
    """Of one checkpoint: model, optimizer, table, bank, and the small files that describe it."""
    model = meta_model(config, info)
    names = dict(model.named_parameters())
    moments = {f"{moment}/{name}": p for moment in moment_names(config) for name, p in names.items()}
    parts = {
        "model": _file_bytes({name: (value.shape, _kind(value)) for name, value in model.state_dict().items()}),
        "optimizer": _file_bytes({name: (p.shape, _kind(p)) for name, p in moments.items()}),
    }
    files = 4
    if config.uses_table:
        columns = (1 + len(info.class_names),) if config.learns_noise else ()
        table = [
            _table_file_bytes(rows, columns) for rows in _table_files(info.num_train, config.placement.max_workers)
        ]
        parts["table"] = sum(table)
        files += len(table)
    if config.uses_bank:
        shards = config.placement.max_workers if config.bank_stays else config.bank_shards
        bounds = [info.num_train * i // shards for i in range(shards + 1)]
        spec = planned_bank_spec(config, info)
        parts["bank"] = sum(
            bank_part_bytes(spec, stop - start, config.data.batch_size // shards, graph_columns(config))
            for start, stop in pairwise(bounds)
        )
        files += shards
    parts["description"] = len(to_json(config)) + FACTS_BYTES + files * LIST_ENTRY_BYTES
    return parts


def bank_part_bytes(spec: BankSpec, rows: int, young: int, graph_columns: int) -> int:
    """A bank's part of a checkpoint: rows, those just written (``young``), and graphs of so many columns in all."""
    columns = {name: (rows, spec.record[name]) for name in spec.record.names or ()}
    # An id stands there in place of a young row's version.
    columns |= {f"young_{name}": (young, kind) for name, (_, kind) in columns.items()}
    columns |= {"graphs": (rows, np.dtype(("i4", (graph_columns,))))} if graph_columns else {}
    return _file_bytes({name: ((n, *kind.shape), kind.base) for name, (n, kind) in columns.items()})


def graph_columns(config: RunConfig) -> int:
    """Columns of the graphs that a checkpoint keeps beside the data set's: at most, once they were found anew."""
    return GRAPHS_KEPT * config.neighbors.num_neighbors if config.index_shards else 0


def epoch_bytes(info: DatasetInfo, plan: Plan) -> int:
    """Read by all workers in one epoch: every shard once; with class balance, at most, by what its runs span."""
    shards = sum(shard.bytes for shard in info.shards_of("train"))
    if plan.balance is None:
        return shards
    places = ((lane, superstep) for superstep in range(SAMPLED_WINDOWS) for lane in range(plan.num_lanes))
    runs = [run for place in islice(places, SAMPLED_WINDOWS) for run in plan.window(*place)[0]]
    return round(shards * sum(run.rows for run in runs) / sum(run.count for run in runs))


def _table_files(num_rows: int, workers: int) -> Iterable[int]:
    """Rows of each file of the table."""
    for rank in range(workers):
        per_rank = -(-num_rows // workers)
        mine = max(0, min(per_rank, num_rows - rank * per_rank))
        yield from (min(FILE_ROWS, mine - begin) for begin in range(0, mine, FILE_ROWS))


def _table_file_bytes(rows: int, columns: tuple[int, ...]) -> int:
    shape = (rows, *columns)
    return _file_bytes({"first_id": ((1,), I64), "logits": (shape, F32), "velocity": (shape, F32)})


def _file_bytes(tensors: Mapping[str, tuple[Sequence[int], np.dtype[Any]]]) -> int:
    """A safetensors file of tensors with these shapes and kinds."""
    return TensorFile(
        {
            name: Column(dtype=kind, shape=tuple(shape) or (1,), rows=_no_rows)
            for name, (shape, kind) in tensors.items()
        },
        {},
    ).size


def _kind(value: Tensor) -> np.dtype[Any]:
    return F32 if value.is_floating_point() else I64


def _no_rows(first: int, last: int) -> Any:
    raise AssertionError(f"rows {first}..{last} of a file that is only measured")
