"""The end of adding rows: the parent's manifest and the tasks' pieces become a version's, and its graphs grow.

In each split the old rows come first, in their order, so that training rows keep their ids; those of the other splits
move. The version's ``dataset.json`` comes last.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import BASE, Dataset
from ldlva_dist.dataset.manifest import (
    DATASET,
    ROW_GROUP_ROWS,
    SPLITS,
    DatasetInfo,
    RowsBefore,
    ShardInfo,
    SplitInfo,
    schema_of,
    write_info,
)
from ldlva_dist.dataset.manifest_blocks import ContentHash, Tally, write_blocks
from ldlva_dist.dataset.relabel_rounds import RELABELLED, moved_rounds, read_rounds
from ldlva_dist.dataset.stored_rows import regrouped
from ldlva_dist.errors import DataError
from ldlva_dist.index.extend import extend_graphs
from ldlva_dist.packing.passes.finish import placed_rows, task_shards, write_rejected_rows
from ldlva_dist.packing.passes.pass1_survey import NO_LABEL
from ldlva_dist.packing.passes.pass2_order import Order
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.stage import Stage, full_disk_said
from ldlva_dist.packing.sources.rows import Partition


def finish_added(
    stage: Stage,
    partitions: Sequence[Partition],
    settings: PackSettings,
    order: Order,
    source: Mapping[str, Any],
    parent: Dataset,
) -> None:
    """Write the manifest, graphs and last files of a version of ``parent`` with more rows.

    Args:
        stage: Of the version, with the pieces of all tasks.
        partitions: All of the source.
        settings: How the new rows were packed.
        order: What the second pass found.
        source: What ``dataset.json`` says of where the new rows come from.
        parent: Data set that they are added to.

    Raises:
        DataError: where the parent's manifest is damaged.
    """
    old, by_task = parent.info, task_shards(stage, len(order.tasks))
    growth = _Growth(parent, order.splits, list(chain.from_iterable(by_task)))
    placed = partial(placed_rows, stage, by_task, optional=order.optional)
    names = [*parent.column_names(), *(name for name in ("raters",) if name in order.optional)]
    schema, tally = schema_of(dict.fromkeys(names)), Tally(old.class_names)
    digest = ContentHash(old.class_names, old.va_transform)
    version = stage.output.rstrip("/").rpartition("/")[2]
    rows = growth.blocks(placed, schema)
    with full_disk_said(stage.root):
        write_blocks(stage.final, _counted(regrouped(rows, ROW_GROUP_ROWS), digest, tally))
        write_rejected_rows(stage, partitions, skip=settings.on_bad_data == "skip")
        if len(rounds := read_rounds(parent)):
            data = moved_rounds(rounds, growth.moved)
            storage.write_bytes(storage.join(stage.final, RELABELLED), data)
        content_hash = digest.hexdigest()
        added = {**source, **settings.describe(), "rows": dict(zip(SPLITS, order.splits, strict=True))}
        info = replace(
            old,
            splits=growth.splits,
            shards=growth.shards(version),
            content_hash=content_hash,
            class_counts=tally.class_counts(),
            flip_share=tally.flip_share(),
            num_rejected=old.num_rejected + order.num_rejected,
            num_unlabelled=old.num_unlabelled + order.reasons.get(NO_LABEL, 0),
            source={**old.source, "added": [*old.source.get("added", ()), added]},
            base=BASE,
            root=old.root_hash,
            parent=old.content_hash,
            change=f"{sum(order.splits)} rows added",
            rows=content_hash,
            before=(*old.before, RowsBefore(rows_hash=old.rows_hash, splits=old.splits)),
        )
        extend_graphs(parent, Dataset(stage.final, info))
        write_info(stage.final, info)


@dataclass(frozen=True)
class _Growth:
    """Where old and new rows come to stand."""

    parent: Dataset
    new_rows: Sequence[int]
    """Of each of SPLITS."""
    new_shards: Sequence[ShardInfo]

    @property
    def _old(self) -> DatasetInfo:
        return self.parent.info

    @property
    def shift(self) -> NDArray[np.int64]:
        """[3] what is added to the ids of the old rows of each split."""
        return np.cumsum([0, *self.new_rows[:-1]])

    @property
    def splits(self) -> dict[str, SplitInfo]:
        """The splits, old and new rows together."""
        return {
            name: SplitInfo(
                first_id=self._old.splits[name].first_id + int(self.shift[number]),
                rows=self._old.splits[name].rows + self.new_rows[number],
            )
            for number, name in enumerate(SPLITS)
        }

    def shards(self, version: str) -> tuple[ShardInfo, ...]:
        """All shards in id order; the new ones are the version's."""
        new = [replace(shard, version=version) for shard in self.new_shards]
        return tuple(sorted([*self._moved_shards(), *new], key=lambda shard: shard.first_id))

    def moved(self, ids_n: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] ids of old rows as they are now."""
        ends = np.cumsum([self._old.splits[name].rows for name in SPLITS])
        return ids_n + self.shift[np.searchsorted(ends, ids_n, side="right")]

    def blocks(self, placed: Callable[[str], Iterator[pa.Table]], schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows of the new manifest, in tables of any length; ``placed`` gives the new ones of a split."""
        first_S = np.array([shard.first_id for shard in self.shards("")], dtype=np.int64)
        old = groupby(self._old_pieces(), key=itemgetter(0))
        number, pieces = next(old, (len(SPLITS), iter(())))
        for split, name in enumerate(SPLITS):
            if number == split:
                moved = (_replaced(rows, id=pa.array(self.moved(rows["id"].to_numpy()))) for _, rows in pieces)
                yield from (_fitted(_in_shards(rows, first_S), schema) for rows in moved)
                number, pieces = next(old, (len(SPLITS), iter(())))
            yield from (_fitted(_in_shards(rows, first_S), schema) for rows in placed(name))

    def _old_pieces(self) -> Iterator[tuple[int, pa.Table]]:
        """The parent's rows in id order, cut where a split ends; a DataError where they are not what it says."""
        digest, at = ContentHash(self._old.class_names, self._old.va_transform), 0
        ends = np.cumsum([self._old.splits[name].rows for name in SPLITS])
        for block in self.parent.blocks():
            digest.update(block)
            cuts = [0, *(end - at for end in ends.tolist() if at < end < at + len(block)), len(block)]
            for begin, end in pairwise(cuts):
                yield int(np.searchsorted(ends, at + begin, side="right")), block.slice(begin, end - begin)
            at += len(block)
        if digest.hexdigest() != self._old.content_hash:
            raise DataError(f"{self.parent.uri} is damaged: its manifest does not have the content hash of {DATASET}")

    def _moved_shards(self) -> list[ShardInfo]:
        return [
            replace(shard, first_id=shard.first_id + int(self.shift[SPLITS.index(shard.split)]))
            for shard in self._old.shards
        ]


def _in_shards(rows: pa.Table, first_S: NDArray[np.int64]) -> pa.Table:
    """With the shard that each id lies in; the shards begin at the ids ``first_S``."""
    shard_n = np.searchsorted(first_S, rows["id"].to_numpy(), side="right") - 1
    return _replaced(rows, shard=pa.array(shard_n, pa.int32()))


def _replaced(rows: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, column in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def _fitted(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """With the columns of the manifest: a new row's label is the one that was given, and not known to be wrong."""
    for name in schema.names:
        if name not in rows.column_names:
            blank = pa.nulls(len(rows), schema.field(name).type)
            given = {"original_label": rows["label"], "flipped": pa.array([False] * len(rows))}
            rows = rows.append_column(name, given.get(name, blank))
    return rows.select(schema.names).cast(schema)


def _counted(blocks: Iterator[pa.Table], digest: ContentHash, tally: Tally) -> Iterator[pa.Table]:
    for block in blocks:
        block = block.unify_dictionaries().combine_chunks()
        digest.update(block)
        tally.add(block)
        yield block
