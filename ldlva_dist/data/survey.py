"""The first pass over a user's data: every row is verified, nothing is written. n = rows of a block, N = all rows."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.data import storage
from ldlva_dist.data.rows import ClassIndex, Rows, Source
from ldlva_dist.data.transforms import decode, encode_square
from ldlva_dist.errors import DataError, SettingError

NO_LABEL = "no label"
UNKNOWN_LABEL = "the label is no class"
NO_IMAGE = "the image is missing"
BAD_IMAGE = "the image cannot be decoded"
NO_VA = "valence-arousal is missing"
BAD_VA = "valence-arousal is not in [-1, 1]"
NO_KEY = "the key is empty"
DUPLICATE = "the key stands twice"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found: tables in the source's order."""

    accepted: pa.Table
    """part, number, key, label, valence, arousal, size, key_hash, and what the source has of votes, truth, flips."""
    rejected: pa.Table
    """part, number, key, reason; rows without a label among them."""
    has_valence_arousal: bool
    num_unlabelled: int

    @property
    def num_rejected(self) -> int:
        """Rows that count against the budget."""
        return self.rejected.num_rows - self.num_unlabelled


def load_image(image: bytes | str | None, size: int | None) -> bytes:
    """The bytes to pack: the user's own, or a JPEG of ``size`` x ``size`` where another size is asked for."""
    data = storage.read_bytes(image) if isinstance(image, str) else image
    if not data:
        raise DataError(NO_IMAGE)
    if size is None:
        return data
    pixels = decode(data, 3)
    if pixels.shape[:2] == (size, size):
        return data
    grey = (pixels == pixels[:, :, :1]).all()
    return encode_square(pixels[:, :, :1] if grey else pixels, size)


def survey(source: Source, class_names: Sequence[str], size: int | None) -> Survey:
    """Verify every row of a source."""
    classes = ClassIndex(class_names)
    with ThreadPoolExecutor() as pool:
        blocks = [_check(rows, classes, size, pool) for rows in source.blocks()]
    if not blocks or not (total := sum(len(block) for block in blocks)):
        raise DataError("the data set is empty: its tables hold no rows")
    table = _reject_missing_va(_reject_duplicates(pa.concat_tables(blocks)))
    accepted = table.filter(table["reason"].is_null())
    rejected = table.filter(table["reason"].is_valid()).select(["part", "number", "key", "reason"])
    counts = count_reasons(rejected)
    labelled = total - counts[NO_LABEL]
    if not labelled:
        raise DataError(f"the data set is empty: none of its {total} rows has a label")
    if counts[UNKNOWN_LABEL] == labelled:
        examples = sorted({str(label) for block in blocks for label in block["given"].to_pylist()[:50]})[:8]
        raise SettingError(f"--classes must name the labels of the data ({', '.join(examples)}), got {class_names}")
    return Survey(
        accepted=accepted.drop(["reason", "given"]),
        rejected=rejected,
        has_valence_arousal=accepted["valence"].null_count < len(accepted),
        num_unlabelled=counts[NO_LABEL],
    )


def check_budget(found: Survey, max_rejected: float) -> None:
    """DataError when more than this share of the labelled rows was rejected; it names the most common reasons."""
    total = found.accepted.num_rows + found.num_rejected
    if found.num_rejected > max_rejected * total:
        counts = count_reasons(found.rejected)
        del counts[NO_LABEL]
        reasons = ", ".join(f"{reason} ({count})" for reason, count in counts.most_common(3))
        labelled = found.rejected.filter(found.rejected["reason"].to_numpy() != NO_LABEL)
        raise DataError(
            f"{found.num_rejected} of {total} rows were rejected, --max-rejected allows {max_rejected:.2%}: {reasons}; "
            f"the first is {labelled['key'][0].as_py()!r} in row {labelled['number'][0].as_py()}"
        )


def count_reasons(rejected: pa.Table) -> Counter[str]:
    """How often each reason stands in a table of rejected rows."""
    counts = rejected["reason"].value_counts()
    return Counter({pair["values"]: pair["counts"] for pair in counts.to_pylist()})


def _check(rows: Rows, classes: ClassIndex, size: int | None, pool: ThreadPoolExecutor) -> pa.Table:
    indices = [None if label is None else classes.find(label) for label in rows.labels]
    reasons = list(_cheap_reasons(rows, indices))
    todo = [i for i, reason in enumerate(reasons) if reason is None]
    sizes = [0] * len(reasons)
    for i, outcome in zip(todo, pool.map(lambda i: _image_size(rows.images[i], size), todo), strict=True):
        if isinstance(outcome, str):
            reasons[i] = outcome
        else:
            sizes[i] = outcome
    va_n2 = [pa.array(column, pa.float32(), from_pandas=True) for column in rows.va.T]  # NaN becomes null
    columns = {
        "part": pa.array([rows.part] * len(reasons), pa.string()),
        "number": pa.array(rows.numbers, pa.int64()),
        "key": pa.array(rows.keys, pa.string()),
        "given": pa.array(rows.labels, pa.string()),
        "label": pa.array(indices, pa.int16()),
        "valence": va_n2[0],
        "arousal": va_n2[1],
        "size": pa.array(sizes, pa.int32()),
        "reason": pa.array(reasons, pa.string()),
    }
    optional = {"votes": rows.votes, "true_distribution": rows.truth, "flipped": rows.flipped}
    columns |= {name: _array(values) for name, values in optional.items() if values is not None}
    return pa.table(columns)


def _array(values: NDArray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))


def _cheap_reasons(rows: Rows, indices: Sequence[int | None]) -> Iterator[str | None]:
    missing_n2 = np.isnan(rows.va)
    half_n = np.not_equal(missing_n2[:, 0], missing_n2[:, 1])
    outside_n = np.any(~missing_n2 & ~(np.abs(rows.va) <= 1), axis=1)
    for i, (label, index, key) in enumerate(zip(rows.labels, indices, rows.keys, strict=True)):
        if label is None:
            yield NO_LABEL
        elif index is None:
            yield UNKNOWN_LABEL
        elif not key:
            yield NO_KEY
        elif outside_n[i] or half_n[i]:
            yield BAD_VA if outside_n[i] else NO_VA
        else:
            yield None


def _image_size(image: bytes | str | None, size: int | None) -> int | str:
    """Bytes of the image as it will be packed, or why it cannot be."""
    try:
        data = load_image(image, None)
    except DataError:
        return NO_IMAGE
    try:
        decode(data, 3)
        return len(load_image(data, size))
    except DataError:
        return BAD_IMAGE


def _reject_duplicates(table: pa.Table) -> pa.Table:
    """Every row whose key stood before, by a 64-bit hash; the hash stays in the table."""
    hash_N = np.fromiter((_hash(key) for key in table["key"].to_pylist()), np.uint64, count=len(table))
    fine_N = table["reason"].is_null().to_numpy()
    _, first = np.unique(hash_N[fine_N], return_index=True)
    repeated_N = fine_N.copy()
    repeated_N[np.flatnonzero(fine_N)[first]] = False
    return _reject(table, repeated_N, DUPLICATE).append_column("key_hash", pa.array(hash_N))


def _reject_missing_va(table: pa.Table) -> pa.Table:
    """Rows without valence-arousal, where other rows have it."""
    missing_N = table["valence"].is_null().to_numpy()
    if missing_N.all():
        return table
    return _reject(table, missing_N & table["reason"].is_null().to_numpy(), NO_VA)


def _reject(table: pa.Table, mask_N: NDArray[np.bool_], reason: str) -> pa.Table:
    reasons = np.where(mask_N, reason, table["reason"].to_numpy())
    return table.set_column(table.column_names.index("reason"), "reason", pa.array(reasons, pa.string()))


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
