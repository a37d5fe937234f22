"""What the survey found, as columns in memory, and the rules that need all rows. N = all rows, P = partitions."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.dataset.manifest import EXTRA, OPTIONAL, float_column
from ldlva_dist.packing.passes.pass1_survey import DUPLICATE, NO_VA, UNKNOWN_LABEL, survey_name
from ldlva_dist.packing.passes.stage import Stage

READ_THREADS = 16
SHOWN_LABELS = 256  # of one piece; a column of names would have millions
_WANTED = ("key_hash", "identity", "label", "valence", "arousal", "size", "checksum", "pixels", "reason")
_MAYBE = ("flipped", "group")


@dataclass(frozen=True)
class Repeated:
    """Rows that stood before. D = such rows."""

    row_D: NDArray[np.int64]
    first_D: NDArray[np.int64]
    """The row that each of them repeats."""


@dataclass
class Columns:
    """All rows in reading order; ``reasons[code]`` says why a row is rejected, code -1 that it is not."""

    rows_P: NDArray[np.int64]
    hash_N: NDArray[np.uint64]
    """Hash of the key."""
    identity_N: NDArray[np.uint64]
    """Equal where two rows are one."""
    label_N: NDArray[np.int16]
    """-1 where there is none."""
    va_N2: NDArray[np.float32]
    size_N: NDArray[np.int32]
    checksum_N: NDArray[np.uint32]
    pixels_N: NDArray[np.uint64]
    """Checksum of the decoded image."""
    flipped_N: NDArray[np.bool_] | None
    code_N: NDArray[np.int32]
    reasons: list[str]
    labels: Mapping[str, int]
    """Rows of each label as given, of those that were read for their label."""
    unknown: Mapping[str, int]
    """Those of them that are no class."""
    optional: tuple[str, ...]
    """Optional columns of the manifest that the source has, and the user's own."""
    group_N: NDArray[np.uint64] | None = None
    """Hash of what rows of one part have in common, such as a person; 0 where a row has none."""

    @property
    def first_P(self) -> NDArray[np.int64]:
        """Place of each partition's first row."""
        return np.cumsum(self.rows_P) - self.rows_P

    def reject(self, mask_N: NDArray[np.bool_], reason: str) -> None:
        """Reject the rows of ``mask_N`` that no other reason has rejected."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.code_N[mask_N & (self.code_N < 0)] = self.reasons.index(reason)

    def reject_duplicates(self) -> Repeated:
        """Every accepted row that stood in an accepted row before."""
        fine = np.flatnonzero(self.code_N < 0)
        again, first = repeats(self.identity_N[fine])
        repeated_N = np.zeros(len(self.code_N), dtype=bool)
        repeated_N[fine[again]] = True
        self.reject(repeated_N, DUPLICATE)
        return Repeated(fine[again], fine[first])

    def partition_of(self, rows_n: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] the partition that each row stands in."""
        return np.searchsorted(self.first_P, rows_n, side="right") - 1

    def reject_missing_va(self) -> None:
        """Rows without valence-arousal, where other rows have it."""
        missing_N = np.isnan(self.va_N2[:, 0])
        if not missing_N.all():
            self.reject(missing_N, NO_VA)

    def counts(self, among: NDArray[np.bool_] | slice = slice(None)) -> dict[str, int]:
        """How many rows, or of the rows ``among``, are rejected for each reason, in order of the reasons' names."""
        counts = np.bincount(self.code_N[among] + 1, minlength=len(self.reasons) + 1)[1:].tolist()
        return {reason: count for reason, count in sorted(zip(self.reasons, counts, strict=True)) if count}


def repeats(values_n: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places whose value stood before, ascending, and for each the place where it stood first."""
    order_n = np.argsort(values_n, kind="stable")
    ordered_n = values_n[order_n]
    is_same = ordered_n[1:] == ordered_n[:-1]
    if not is_same.any():
        return order_n[:0], order_n[:0]
    begins = np.flatnonzero(np.concatenate([[True], ~is_same]))
    again = np.flatnonzero(is_same) + 1
    first = begins[np.searchsorted(begins, again, side="right") - 1]
    by_place = np.argsort(order_n[again])
    return order_n[again][by_place], order_n[first][by_place]


def read_survey_columns(stage: Stage, partitions: int) -> Columns:
    """What the pieces of the survey say."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = list(pool.map(lambda number: _read(stage, number), range(partitions)))
    labels = sum((labels for _, _, labels in found), Counter[tuple[str, bool]]())
    table = pa.concat_tables([part for part, _, _ in found], promote_options="default")
    reason = table["reason"].dictionary_encode().combine_chunks()
    flipped = table["flipped"].fill_null(False).to_numpy() if "flipped" in table.column_names else None
    return Columns(
        rows_P=np.array([len(part) for part, _, _ in found], dtype=np.int64),
        hash_N=table["key_hash"].to_numpy().copy(),
        identity_N=table["identity"].to_numpy(),
        label_N=table["label"].fill_null(-1).to_numpy(),
        va_N2=np.stack([float_column(table, name) for name in ("valence", "arousal")], axis=1),
        size_N=table["size"].to_numpy(),
        checksum_N=table["checksum"].to_numpy(),
        pixels_N=table["pixels"].to_numpy(),
        flipped_N=flipped,
        code_N=reason.indices.fill_null(-1).to_numpy(zero_copy_only=False).copy(),
        reasons=reason.dictionary.to_pylist(),
        labels={label: count for (label, _), count in labels.items()},
        unknown={label: count for (label, is_class), count in labels.items() if not is_class},
        optional=tuple(_optional([names for _, names, _ in found])),
        group_N=table["group"].fill_null(0).to_numpy() if "group" in table.column_names else None,
    )


def _optional(names_P: Sequence[Sequence[str]]) -> Iterator[str]:
    present = dict.fromkeys(chain.from_iterable(names_P))
    yield from (name for name in OPTIONAL if name in present)
    yield from (name for name in present if name.startswith(EXTRA))


def _read(stage: Stage, number: int) -> tuple[pa.Table, tuple[str, ...], Counter[tuple[str, bool]]]:
    """The wanted columns of a piece, the names of all it has, and how often each label stands there, class or not."""
    with stage.open_piece(survey_name(number)) as piece:
        names = tuple(piece.schema_arrow.names)
        table = piece.read([name for name in (*_WANTED, *_MAYBE, "given") if name in names])
    pairs = zip(table["given"].to_pylist(), table["reason"].to_pylist(), strict=True)
    labels = Counter((given, not reason) for given, reason in pairs if given and reason in (None, UNKNOWN_LABEL))
    return table.drop_columns("given"), names, Counter(dict(labels.most_common(SHOWN_LABELS)))
