"""First pass: every row of a partition is verified, nothing is packed. n = rows of a block, P = all its rows.

Images that the source encoded itself (faces cut out, pixels of a table) are kept for the third pass in a piece of their
own: they are made once.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from ldlva_dist.dataset.manifest import EXTRA
from ldlva_dist.dataset.shards import key_hash
from ldlva_dist.errors import DataError
from ldlva_dist.packing.classes.class_index import ClassIndex
from ldlva_dist.packing.passes.load_images import READ_THREADS, check_images
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.stage import Stage
from ldlva_dist.packing.sources.rows import LEFT_OUT, Partition, Rows, Source

NO_LABEL = "no label"
UNKNOWN_LABEL = "the label is no class"
NO_VA = "valence-arousal is missing"
BAD_VA = "valence-arousal is not in [-1, 1]"
NO_NUMBER = "valence-arousal is no number"
NO_KEY = "the key is empty"
DUPLICATE = "the row stands twice"

SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("key", pa.string()),
        ("key_hash", pa.uint64()),
        ("name", pa.string()),
        ("path", pa.string()),  # of the image file; null for an image that stands in a table or tar
        ("identity", pa.uint64()),  # the same for rows that are one: of one file, or of one name in a table or tar
        ("given", pa.string()),
        ("label", pa.int16()),
        ("valence", pa.float32()),
        ("arousal", pa.float32()),
        ("size", pa.int32()),  # of the image as it will be packed, in bytes
        ("checksum", pa.uint32()),
        ("pixels", pa.uint64()),  # checksum of the decoded image, the same whatever its format
        ("reason", pa.string()),  # why the row is not packed; null for a good one
    ]
)
IMAGES_SCHEMA = pa.schema([("row", pa.int64()), ("image", pa.binary())])


def survey_name(number: int) -> str:
    """The piece of partition ``number``."""
    return f"survey-{number:05d}.parquet"


def made_images_name(number: int) -> str:
    """The images that were made for partition ``number``; there is no such piece where the source has them as files."""
    return f"images-{number:05d}.parquet"


def is_outside_budget(reason: str) -> bool:
    """Whether rows of this reason are no fault of the data: they have no label, or the protocol leaves them out."""
    return reason == NO_LABEL or reason.startswith(LEFT_OUT)


def survey_partition(stage: Stage, source: Source, partition: Partition, settings: PackSettings, number: int) -> None:
    """Write the piece of partition ``number``: [P] its rows in reading order.

    They have the columns of SCHEMA, and what the source has of votes, truth, flips and the user's own columns.

    Raises:
        DataError: for a bad row, where the settings want that.
    """
    classes, place, made = settings.classes, partition.place, list[pa.Table]()
    blocks, at = [SCHEMA.empty_table()], 0
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for rows in source.read(partition):
            table, loaded = _check(rows, place, classes, settings.size, pool)
            blocks.append(table)
            if rows.are_made:
                made.append(pa.table({"row": [at + i for i in loaded], "image": list(loaded.values())}, IMAGES_SCHEMA))
            at += len(table)
    table = _with_group(pa.concat_tables(blocks, promote_options="default"), settings.group_columns)
    if settings.on_bad_data == "fail":
        _refuse(table, partition)
    if made:
        stage.write_piece(made_images_name(number), pa.concat_tables(made), compression="none")
    stage.write_piece(survey_name(number), table)


def _with_group(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """With a hash of the values of the first of these extra columns that there is; none otherwise."""
    column = next((EXTRA + name for name in columns if EXTRA + name in table.column_names), None)
    if column is None:
        return table
    values = table[column].to_pylist()
    group = [None if value is None else key_hash(value) for value in values]
    return table.append_column("group", pa.array(group, pa.uint64()))


def _check(
    rows: Rows, place: str, classes: ClassIndex, size: int | None, pool: ThreadPoolExecutor
) -> tuple[pa.Table, dict[int, bytes]]:
    """The rows as they are surveyed, and the images of those that are good so far."""
    labels = [None if classes.is_missing(label) else label for label in rows.labels]
    indices = [None if label is None else classes.find(label) for label in labels]
    reasons = list(_cheap_reasons(rows, labels, indices))
    todo = [i for i, reason in enumerate(reasons) if reason is None]
    sizes, checksums, pixels = [0] * len(reasons), [0] * len(reasons), [0] * len(reasons)
    images: dict[int, bytes] = {}
    loaded = check_images([rows.images[i] for i in todo], size, pool, are_made=rows.are_made)
    for i, found in zip(todo, loaded, strict=True):
        if isinstance(found, DataError):
            reasons[i] = str(found)
            continue
        images[i], pixels[i] = found
        sizes[i], checksums[i] = len(images[i]), crc32(images[i])
    columns = {
        "number": pa.array(rows.numbers, pa.int64()),
        "key": pa.array(rows.keys, pa.string()),
        "key_hash": pa.array([key_hash(key) for key in rows.keys], pa.uint64()),
        **_names(rows, place),
        "given": pa.array(labels, pa.string()),
        "label": pa.array(indices, pa.int16()),
        "valence": pa.array(rows.va[:, 0], pa.float32(), from_pandas=True),  # NaN becomes null
        "arousal": pa.array(rows.va[:, 1], pa.float32(), from_pandas=True),
        "size": pa.array(sizes, pa.int32()),
        "checksum": pa.array(checksums, pa.uint32()),
        "pixels": pa.array(pixels, pa.uint64()),
        "reason": pa.array(reasons, pa.string()),
    }
    optional = {"votes": rows.votes, "true_distribution": rows.truth, "flipped": rows.flipped, "raters": rows.raters}
    columns |= {name: _array(values) for name, values in optional.items() if values is not None}
    columns |= {EXTRA + name: pa.array(values, pa.string()) for name, values in rows.extra.items()}
    return pa.table(columns), images


def _names(rows: Rows, place: str) -> dict[str, pa.Array]:
    names = rows.keys if rows.names is None else rows.names
    paths = [image if isinstance(image, str) else None for image in rows.images]
    whole = os.path.abspath(place)
    ones = [os.path.abspath(path) if path else f"{whole}\n{name}" for path, name in zip(paths, names, strict=True)]
    return {
        "name": pa.array(names, pa.string()),
        "path": pa.array(paths, pa.string()),
        "identity": pa.array([key_hash(one) for one in ones], pa.uint64()),
    }


def _cheap_reasons(rows: Rows, labels: Sequence[str | None], indices: Sequence[int | None]) -> Iterator[str | None]:
    missing_n2 = np.isnan(rows.va)
    half_n = np.not_equal(missing_n2[:, 0], missing_n2[:, 1])
    strange_n = np.any(np.isinf(rows.va), axis=1)
    outside_n = np.any(~missing_n2 & ~(np.abs(rows.va) <= 1), axis=1)
    own = rows.reasons or [None] * len(rows.keys)
    for i, (reason, label, index, key) in enumerate(zip(own, labels, indices, rows.keys, strict=True)):
        if reason is not None:
            yield reason
        elif label is None:
            yield NO_LABEL
        elif index is None:
            yield UNKNOWN_LABEL
        elif not key:
            yield NO_KEY
        elif outside_n[i] or half_n[i]:
            yield NO_NUMBER if strange_n[i] else BAD_VA if outside_n[i] else NO_VA
        else:
            yield None


def _array(values: NDArray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values, from_pandas=True)  # NaN becomes null
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))


def _refuse(table: pa.Table, partition: Partition) -> None:
    for row, reason in enumerate(table["reason"].to_pylist()):
        if reason is not None and not is_outside_budget(reason):
            place = f" of {partition.place}" if partition.place else ""
            raise DataError(
                f"{reason}: {table['key'][row].as_py()!r} in row {table['number'][row].as_py()}{place} "
                "(--on-bad-data fail)"
            )
