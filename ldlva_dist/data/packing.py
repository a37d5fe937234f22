"""The second pass: verified rows become shards, a manifest and ``dataset.json``. N = accepted rows."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist.data.manifest import (
    DATASET,
    MANIFEST,
    REJECTED,
    ROW_GROUP_ROWS,
    SPLITS,
    DatasetInfo,
    SplitInfo,
    float_column,
    write_info,
    write_manifest,
)
from ldlva_dist.data.rows import Source
from ldlva_dist.data.shards import Placed
from ldlva_dist.data.staging import staged, write_shards
from ldlva_dist.data.survey import Survey
from ldlva_dist.errors import DataError, SettingError

_HASHED = ("key", "checksum", "label", "valence", "arousal", "split")


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """How accepted rows become a data set."""

    name: str
    class_names: tuple[str, ...]
    size: int | None = None
    """Side in pixels that images are resized to; None packs them as they are."""
    holdout: float = 0.1
    """Share of the training part that is cut off for model selection."""
    seed: int = 0
    standardize_va: bool = False
    shuffle_va: int | None = None
    """Seed that permutes valence-arousal among the training samples: a control experiment."""


def order_rows(found: Survey, settings: PackSettings) -> pa.Table:
    """The accepted rows in id order, with their ``split`` (index into SPLITS) and final valence-arousal."""
    split_N = _cut(found.accepted, settings)
    order_N = np.argsort(split_N, kind="stable")
    table = found.accepted.take(order_N).append_column("split", pa.array(split_N[order_N]))
    _check_classes(table, settings.class_names)
    if settings.shuffle_va is None:
        return table
    train = int((split_N == 0).sum())
    generator = np.random.default_rng(settings.shuffle_va)
    shuffled = np.concatenate([generator.permutation(train), np.arange(train, len(table))])
    for name in ("valence", "arousal"):
        table = table.set_column(table.column_names.index(name), name, table[name].take(shuffled))
    return table


def pack(source: Source, found: Survey, output: str, settings: PackSettings) -> DatasetInfo:
    """Write the data set; it appears complete or not at all.

    A local one is packed in a temporary folder beside ``output`` and renamed; on a store ``dataset.json`` comes last,
    and without it there is no data set.
    """
    table = order_rows(found, settings)
    with staged(output) as stage:
        placed = write_shards(source, table, stage, class_names=settings.class_names, size=settings.size)
        info = _describe(source, found, table, placed=placed, settings=settings)
        manifest = _manifest(table, placed)
        info = replace(info, content_hash=content_hash(manifest, info.class_names, info.va_transform))
        write_manifest(str(stage.folder), manifest)
        pq.write_table(found.rejected.rename_columns(["part", "row", "key", "reason"]), stage.folder / REJECTED)
        write_info(str(stage.folder), info)
        for name in (REJECTED, MANIFEST, DATASET):
            stage.finish(stage.folder / name)
    return info


def _cut(accepted: pa.Table, settings: PackSettings) -> NDArray[np.int8]:
    """[N] index into SPLITS; a training row goes to the holdout by a hash of its key."""
    hash_N = accepted["key_hash"].to_numpy() * np.uint64(2 * settings.seed + 0x9E3779B97F4A7C15)
    hash_N = (hash_N ^ (hash_N >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    held_N = (hash_N >> np.uint64(11)) * 2.0**-53 < settings.holdout
    test_N = accepted["part"].to_numpy() == "test"
    return np.where(test_N, 2, held_N).astype(np.int8)


def _check_classes(table: pa.Table, class_names: Sequence[str]) -> None:
    if not len(table):
        raise DataError("the data set is empty: no row was accepted")
    counts = _class_counts(table, len(class_names))["train"]
    if 0 in counts:
        raise SettingError(
            f"every class must have a training sample, got none of {class_names[counts.index(0)]!r} "
            "(leave it out of --classes, or lower --holdout)"
        )


def _class_counts(table: pa.Table, classes: int) -> dict[str, tuple[int, ...]]:
    label_N, split_N = table["label"].to_numpy(), table["split"].to_numpy()
    counts = {name: np.bincount(label_N[split_N == i], minlength=classes) for i, name in enumerate(SPLITS)}
    return {name: tuple(count.tolist()) for name, count in counts.items()}


def _describe(
    source: Source, found: Survey, table: pa.Table, *, placed: Sequence[Placed], settings: PackSettings
) -> DatasetInfo:
    split_N = table["split"].to_numpy()
    rows = np.bincount(split_N, minlength=len(SPLITS)).tolist()
    splits = {name: SplitInfo(first_id=sum(rows[:i]), rows=rows[i]) for i, name in enumerate(SPLITS)}
    flip_share = None
    if "flipped" in table.column_names:
        flip_share = float(table["flipped"].to_numpy()[split_N < 2].mean())
    made = {
        "size": settings.size,
        "holdout": settings.holdout,
        "seed": settings.seed,
        "shuffle_va": settings.shuffle_va,
    }
    return DatasetInfo(
        name=settings.name,
        class_names=settings.class_names,
        splits=splits,
        shards=tuple(shard for part in placed for shard in part.shards),
        has_valence_arousal=found.has_valence_arousal,
        va_transform=_va_transform(table.slice(0, rows[0])) if settings.standardize_va else None,
        content_hash="",
        class_counts=_class_counts(table, len(settings.class_names)),
        num_rejected=found.num_rejected,
        num_unlabelled=found.num_unlabelled,
        flip_share=flip_share,
        source={**source.describe(), **made},
    )


def _va_transform(train: pa.Table) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the training samples' valence and arousal."""
    va_n2 = np.stack([float_column(train, name) for name in ("valence", "arousal")], axis=1).astype(np.float64)
    mean_2, std_2 = va_n2.mean(axis=0), va_n2.std(axis=0)
    if not (std_2 > 0).all():
        raise SettingError("--standardize-va needs valence-arousal that varies over the training samples")
    return {"mean": (float(mean_2[0]), float(mean_2[1])), "std": (float(std_2[0]), float(std_2[1]))}


def _manifest(table: pa.Table, placed: Sequence[Placed]) -> pa.Table:
    first_shard = np.cumsum([0, *(len(part.shards) for part in placed)])
    columns = {
        "id": np.arange(len(table)),
        "shard": np.concatenate([part.shard + first for part, first in zip(placed, first_shard, strict=False)]),
        "offset": np.concatenate([part.offset for part in placed]),
        "checksum": np.concatenate([part.checksum for part in placed]),
        "split": pa.DictionaryArray.from_arrays(table["split"].combine_chunks(), pa.array(SPLITS)),
    }
    columns |= {name: table[name] for name in table.column_names if name not in columns}
    return pa.table(columns)


def content_hash(
    table: pa.Table, class_names: Sequence[str], transform: Mapping[str, tuple[float, float]] | None
) -> str:
    """SHA-256 of what a run can depend on; the same for the same samples, whatever the shards look like."""
    digest = hashlib.sha256(json.dumps([list(class_names), transform]).encode())
    for block in _blocks(table.select(_HASHED)):
        for name in _HASHED:
            digest.update(_column_bytes(block[name]))
    return digest.hexdigest()


def _blocks(table: pa.Table) -> Iterator[pa.Table]:
    for begin in range(0, table.num_rows, ROW_GROUP_ROWS):
        yield table.slice(begin, ROW_GROUP_ROWS)


def _column_bytes(column: pa.ChunkedArray) -> bytes:
    if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
        return "\n".join(column.cast(pa.string()).to_pylist()).encode()
    return column.combine_chunks().to_numpy(zero_copy_only=False).tobytes()
