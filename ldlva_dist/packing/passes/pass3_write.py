"""Third pass: a task reads its partitions once more and writes its shards. n = rows of the task."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from isal.isal_zlib import crc32

from ldlva_dist import storage
from ldlva_dist.dataset.manifest import EXTRA, SPLITS, ShardInfo
from ldlva_dist.dataset.shards import ShardBuilder, public_facts
from ldlva_dist.errors import DataError
from ldlva_dist.packing.passes.load_images import READ_THREADS, load_images
from ldlva_dist.packing.passes.pass1_survey import made_images_name, survey_name
from ldlva_dist.packing.passes.pass2_order import order_name
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.stage import SHARDS, Stage
from ldlva_dist.packing.sources.rows import Partition, Source

_SURVEYED = ("key", "size", "checksum", "votes", "raters", "true_distribution", "flipped")
INFOS = b"shards"


def placed_name(number: int) -> str:
    """Where task ``number`` put its rows: the columns of the manifest, in id order."""
    return f"placed-{number:05d}.parquet"


def write_task(
    stage: Stage, source: Source, partitions: Mapping[int, Partition], settings: PackSettings, number: int
) -> None:
    """Write the shards of one task, then the piece that says where everything is.

    Raises:
        DataError: where a row is not what it was when it was verified.
    """
    todo = stage.open_piece(order_name(number)).read()
    shards = _Shards(stage)
    tables = []
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for place, partition in partitions.items():
            rows = _with_survey(stage, todo.filter(pa.array(todo["partition"].to_numpy() == place)), place)
            if stage.has_piece(made_images_name(place)):
                images = _made_images(stage, place, rows["row"].to_numpy())
            else:
                images = _images(source, partition, rows["row"].to_numpy(), settings.size, pool)
            offsets = [
                shards.write(facts, image, settings.class_names)
                for facts, image in zip(_facts(rows), images, strict=True)
            ]
            tables.append(rows.append_column("offset", pa.array(offsets, pa.int64())))
    infos = shards.finish()
    placed = pa.concat_tables(tables, promote_options="default").drop_columns(["partition", "row"]).sort_by("id")
    stage.write_piece(placed_name(number), placed.replace_schema_metadata({INFOS: json.dumps(infos)}))


class _Shards:
    """The shards that are being built, one of each split; a finished one is written at once."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._names = stage.read_json(SHARDS)
        self._open: dict[int, tuple[int, ShardBuilder]] = {}
        self._infos: list[dict[str, Any]] = []

    def write(self, facts: Mapping[str, Any], image: bytes | DataError, class_names: Sequence[str]) -> int:
        """Append one row; returns where its image begins in its shard."""
        if isinstance(image, DataError) or (len(image), crc32(image)) != (facts["size"], facts["checksum"]):
            raise DataError(f"the image of {facts['key']!r} changed while the data set was packed")
        split, shard = facts["split"], facts["shard"]
        if split in self._open and self._open[split][0] != shard:
            self._close(split)
        if split not in self._open:
            self._open[split] = shard, ShardBuilder(facts["id"])
        return self._open[split][1].add(image, public_facts(facts, class_names))

    def finish(self) -> list[dict[str, Any]]:
        """Write what is open; the facts of all shards."""
        for split in sorted(self._open):
            self._close(split)
        return self._infos

    def _close(self, split: int) -> None:
        shard, builder = self._open.pop(split)
        data = builder.close()
        name = self._names[shard]
        self._stage.write(storage.join(self._stage.final, name), data)
        info = ShardInfo(name=name, split=SPLITS[split], first_id=builder.first_id, rows=builder.rows, bytes=len(data))
        self._infos.append(asdict(info))


def _with_survey(stage: Stage, rows: pa.Table, place: int) -> pa.Table:
    """The rows of one partition with what the survey found of them; what was settled later wins."""
    with stage.open_piece(survey_name(place)) as piece:
        names = [name for name in piece.schema_arrow.names if name in _SURVEYED or name.startswith(EXTRA)]
        surveyed = piece.read(names).take(rows["row"])
    for name in names:
        if name not in rows.column_names:
            rows = rows.append_column(name, surveyed[name])
    keys = pc.call_function("coalesce", [rows["key"], surveyed["key"]])
    return rows.set_column(rows.column_names.index("key"), "key", keys)


def _made_images(stage: Stage, place: int, rows_n: np.ndarray) -> list[bytes]:
    """[n] images that the first pass has kept, of rows ``rows_n`` (ascending places in the partition)."""
    with stage.open_piece(made_images_name(place)) as piece:
        kept = piece.read()
    return kept["image"].take(np.searchsorted(kept["row"].to_numpy(), rows_n)).to_pylist()


def _images(
    source: Source, partition: Partition, rows_n: np.ndarray, size: int | None, pool: ThreadPoolExecutor
) -> Iterator[bytes | DataError]:
    """[n] the images of rows ``rows_n`` (ascending places in the partition)."""
    at = 0
    for block in source.read(partition):
        begin, end = np.searchsorted(rows_n, (at, at + len(block.keys)))
        yield from load_images([block.images[row - at] for row in rows_n[begin:end].tolist()], size, pool)
        at += len(block.keys)
    for _ in range(int((rows_n >= at).sum())):
        yield DataError("the row is gone")


def _facts(rows: pa.Table) -> Iterator[dict[str, Any]]:
    names = ["id", "key", "label", "valence", "arousal", "split", "shard", "size", "checksum"]
    for batch in rows.select(names).to_batches(max_chunksize=1024):
        yield from batch.to_pylist()
