"""The end: the tasks' pieces become ``manifest.parquet``, ``rejected.parquet`` and, last, ``dataset.json``.

Everything is streamed; what is held is a row group and a few pieces, whatever the number of rows.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ldlva_dist import storage
from ldlva_dist.dataset.manifest import (
    REJECTED,
    ROW_GROUP_ROWS,
    SPLITS,
    DatasetInfo,
    ShardInfo,
    SplitInfo,
    schema_of,
    write_info,
)
from ldlva_dist.dataset.manifest_blocks import ContentHash, write_blocks
from ldlva_dist.dataset.stored_rows import regrouped
from ldlva_dist.packing.passes.pass1_survey import NO_LABEL, is_outside_budget, survey_name
from ldlva_dist.packing.passes.pass2_order import LATE, Order
from ldlva_dist.packing.passes.pass3_write import INFOS, placed_name
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.stage import Stage, full_disk_said
from ldlva_dist.packing.passes.survey_columns import READ_THREADS
from ldlva_dist.packing.sources.rows import Partition

REJECTED_SCHEMA = pa.schema([("part", pa.string()), ("row", pa.int64()), ("key", pa.string()), ("reason", pa.string())])


def finish_dataset(
    stage: Stage, partitions: Sequence[Partition], settings: PackSettings, order: Order, source: Mapping[str, Any]
) -> None:
    """Write the last three files; ``source`` is what ``dataset.json`` says of where the rows come from."""
    shards = task_shards(stage, len(order.tasks))
    rows = chain.from_iterable(placed_rows(stage, shards, split, order.optional) for split in SPLITS)
    digest = ContentHash(settings.class_names, _pairs(order))
    with full_disk_said(stage.root):
        write_blocks(stage.final, _hashed(regrouped(rows, ROW_GROUP_ROWS), digest))
        write_rejected_rows(stage, partitions, skip=settings.on_bad_data == "skip")
        counts = list(order.splits)
        info = DatasetInfo(
            name=settings.name,
            class_names=settings.class_names,
            splits={name: SplitInfo(first_id=sum(counts[:i]), rows=counts[i]) for i, name in enumerate(SPLITS)},
            shards=tuple(sorted((shard for found in shards for shard in found), key=lambda shard: shard.first_id)),
            has_valence_arousal=order.has_valence_arousal,
            va_transform=_pairs(order),
            content_hash=digest.hexdigest(),
            class_counts={name: tuple(of_split) for name, of_split in order.class_counts.items()},
            num_rejected=order.num_rejected,
            num_unlabelled=order.reasons.get(NO_LABEL, 0),
            flip_share=order.flip_share,
            source={**source, **settings.describe()},
        )
        write_info(stage.final, info)


def _pairs(order: Order) -> dict[str, tuple[float, float]] | None:
    if order.va_transform is None:
        return None
    return {name: (pair[0], pair[1]) for name, pair in order.va_transform.items()}


def task_shards(stage: Stage, tasks: int) -> list[list[ShardInfo]]:
    """For each task, the shards that it wrote."""

    def read(number: int) -> list[ShardInfo]:
        with stage.open_piece(placed_name(number)) as piece:
            return [ShardInfo(**raw) for raw in json.loads(piece.schema_arrow.metadata[INFOS])]

    with ThreadPoolExecutor(READ_THREADS) as pool:
        return list(pool.map(read, range(tasks)))


def placed_rows(
    stage: Stage, shards: Sequence[Sequence[ShardInfo]], split: str, optional: Sequence[str]
) -> Iterator[pa.Table]:
    """The packed rows of one split in id order, with the columns of a manifest, in tables of any length.

    Args:
        stage: With the pieces of all tasks.
        shards: Of each task.
        split: Name of the split.
        optional: Columns beyond those that every manifest has.
    """
    schema = schema_of(optional)

    def read(number: int) -> pa.Table:
        with stage.open_piece(placed_name(number)) as piece:
            table = piece.read()
        is_mine = table["split"].to_numpy() == SPLITS.index(split)
        table = table.filter(pa.array(is_mine)).replace_schema_metadata()
        names = pa.DictionaryArray.from_arrays(table["split"].combine_chunks(), pa.array(SPLITS))
        table = table.set_column(table.column_names.index("split"), "split", names)
        for name in schema.names:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
        return table.select(schema.names).cast(schema)

    numbers = [number for number, found in enumerate(shards) if any(shard.split == split for shard in found)]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for begin in range(0, len(numbers), READ_THREADS):
            yield from pool.map(read, numbers[begin : begin + READ_THREADS])


def _hashed(blocks: Iterable[pa.Table], digest: ContentHash) -> Iterator[pa.Table]:
    for block in blocks:
        block = block.unify_dictionaries().combine_chunks()
        digest.update(block)
        yield block


def write_rejected_rows(stage: Stage, partitions: Sequence[Partition], *, skip: bool) -> None:
    """List the rows that are not packed; with ``skip`` only those that are no fault of the data."""
    with stage.open_piece(LATE) as piece:
        late = piece.read()
    filesystem, path = storage.resolve(storage.join(stage.final, REJECTED))
    with pq.ParquetWriter(path, REJECTED_SCHEMA, filesystem=filesystem, compression="zstd") as writer:
        for table in regrouped(_rejected(stage, partitions, late, skip=skip), ROW_GROUP_ROWS):
            writer.write_table(table)


def _rejected(stage: Stage, partitions: Sequence[Partition], late: pa.Table, *, skip: bool) -> Iterator[pa.Table]:
    late_P = late["partition"].to_numpy()
    for number, partition in enumerate(partitions):
        with stage.open_piece(survey_name(number)) as piece:
            table = piece.read(["number", "key", "reason"])
        table = table.append_column("at", pa.array(range(len(table)), pa.int64()))
        found = table.filter(table["reason"].is_valid())
        if len(mine := late.filter(pa.array(late_P == number))):
            more = table.take(mine["row"]).drop_columns("reason").append_column("reason", mine["reason"])
            found = pa.concat_tables([found, more.select(found.column_names)]).sort_by("at")
        if skip:
            found = found.filter(
                pa.array([is_outside_budget(reason) for reason in found["reason"].to_pylist()], pa.bool_())
            )
        part = pa.array([partition.part] * len(found), pa.string())
        listed = {"part": part, "row": found["number"], "key": found["key"], "reason": found["reason"]}
        yield pa.table(listed).cast(REJECTED_SCHEMA)
