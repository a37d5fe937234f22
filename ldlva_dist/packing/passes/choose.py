"""What becomes of the accepted rows: split, id, label to train on, valence-arousal. A = accepted, in reading order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.dataset.manifest import SPLITS
from ldlva_dist.dataset.shards import key_apart, key_hash, sanitise_key
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.noise import (
    ConfusedClasses,
    NoiseList,
    Symmetric,
    candidate_keys,
    list_labels,
    parse_noise,
    read_confusion,
    read_list,
    symmetric,
    weighted,
)
from ldlva_dist.packing.passes.held import Held
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.survey_columns import Columns
from ldlva_dist.packing.sources.rows import Partition

TEST = SPLITS.index("test")


@dataclass(frozen=True)
class Chosen:
    """The accepted rows."""

    row_A: NDArray[np.int64]
    """Place among all rows."""
    partition_A: NDArray[np.int64]
    split_A: NDArray[np.int8]
    """Index into SPLITS."""
    id_A: NDArray[np.int64]
    label_A: NDArray[np.int16]
    """As trained on."""
    given_A: NDArray[np.int16] | None
    """As given; None where no noise was asked for."""
    flipped_A: NDArray[np.bool_] | None
    """Whether the label is known to be wrong; None where nothing is known."""
    va_A2: NDArray[np.float32]

    def class_counts(self, classes: int) -> dict[str, tuple[int, ...]]:
        """Per split: samples of each class."""
        counts = {name: self.label_A[self.split_A == i] for i, name in enumerate(SPLITS)}
        return {name: tuple(np.bincount(label, minlength=classes).tolist()) for name, label in counts.items()}

    def flip_share(self) -> float | None:
        """Share of the train and holdout labels that are known to be wrong."""
        return None if self.flipped_A is None else float(self.flipped_A[self.split_A != TEST].mean())

    def va_transform(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of the training samples' valence and arousal."""
        order = np.argsort(self.id_A)[: int((self.split_A == 0).sum())]
        va_n2 = self.va_A2[order].astype(np.float64)
        mean_2, std_2 = va_n2.mean(axis=0), va_n2.std(axis=0)
        if not (std_2 > 0).all():
            raise SettingError("--standardize-va needs valence-arousal that varies over the training samples")
        return {"mean": (float(mean_2[0]), float(mean_2[1])), "std": (float(std_2[0]), float(std_2[1]))}

    def columns(self) -> dict[str, pa.Array]:
        """[A] those columns of the manifest that are settled here."""
        flags = {"original_label": self.given_A, "flipped": self.flipped_A}
        return {
            "id": pa.array(self.id_A),
            "label": pa.array(self.label_A),
            "valence": pa.array(self.va_A2[:, 0], from_pandas=True),
            "arousal": pa.array(self.va_A2[:, 1], from_pandas=True),
            "split": pa.array(self.split_A),
            **{name: pa.array(column) for name, column in flags.items() if column is not None},
        }


def choose_rows(
    found: Columns, partitions: Sequence[Partition], settings: PackSettings, held: Held | None = None
) -> Chosen:
    """Settle everything about the accepted rows; in each split they come after the rows that are ``held`` already.

    Raises:
        DataError: where there are none, or a noise list does not belong to them.
        SettingError: where a class has no training sample.
    """
    row_A = np.flatnonzero(found.code_N < 0)
    if not len(row_A):
        raise DataError("the data set is empty: no row was accepted")
    partition_A = np.repeat(np.arange(len(partitions)), found.rows_P)[row_A]
    part_P = np.array([SPLITS.index(partition.part) for partition in partitions], dtype=np.int8)
    part_A = part_P[partition_A]
    if settings.holdout_by is None:
        split_A = _split(part_A, found.hash_N[row_A], settings)
    elif found.group_N is None:
        raise SettingError(f"--holdout-by must name a column of the data, got {settings.holdout_by!r}")
    else:
        split_A = _split_by_group(part_A, found.hash_N[row_A], found.group_N[row_A], settings, held)
    order = np.argsort(split_A, kind="stable")
    id_A = np.empty(len(row_A), dtype=np.int64)
    id_A[order] = np.arange(len(row_A))
    if held:
        id_A += np.cumsum(held.rows)[split_A]
    label_A = found.label_N[row_A]
    flipped_A = None if found.flipped_N is None else found.flipped_N[row_A]
    given_A = None
    if settings.noise is not None:
        if flipped_A is not None and flipped_A.any():
            raise SettingError("--noise needs labels as they were given, got a source that flips some itself")
        given_A, label_A = label_A, _noisy(found, row_A, split_A, settings)
        flipped_A = label_A != given_A
    va_A2 = found.va_N2[row_A]
    if settings.shuffle_va is not None:
        train = order[: int((split_A == 0).sum())]
        va_A2[train] = va_A2[train[np.random.default_rng(settings.shuffle_va).permutation(len(train))]]
    chosen = Chosen(row_A, partition_A, split_A, id_A, label_A, given_A, flipped_A, va_A2)
    if not held:
        _check_classes(chosen.class_counts(len(settings.class_names)), settings.class_names)
    return chosen


def _split(part_A: NDArray[np.int8], hash_A: NDArray[np.uint64], settings: PackSettings) -> NDArray[np.int8]:
    """[A] a training row goes to the holdout by a hash of its key, unless the source has a holdout of its own."""
    if (part_A == SPLITS.index("holdout")).any():
        return part_A
    return np.where((part_A == 0) & (_uniform(hash_A, settings.seed) < settings.holdout), 1, part_A).astype(np.int8)


def _split_by_group(
    part_A: NDArray[np.int8],
    hash_A: NDArray[np.uint64],
    group_A: NDArray[np.uint64],
    settings: PackSettings,
    held: Held | None,
) -> NDArray[np.int8]:
    """[A] whole groups go to the holdout, in the order of their hashes, until it has its share of the training rows.

    A row without a group is one by itself. With a share above 0 at least one group is held out. A group that the data
    set has already stays where it is, and its holdout counts towards the share.
    """
    if (part_A == SPLITS.index("holdout")).any():
        raise SettingError("--holdout-by cuts a holdout from the training part, got data with a validation part")
    group_A = np.where(group_A == 0, hash_A, group_A)
    train_n = np.flatnonzero(part_A == 0)
    groups, of_n, rows = np.unique(group_A[train_n], return_inverse=True, return_counts=True)
    is_out, is_known = np.zeros(len(groups), dtype=bool), np.zeros(len(groups), dtype=bool)
    if held and held.group_M is not None:
        is_out, is_known = (np.isin(groups, held.group_M[held.split_M == split]) for split in (1, 0))
    order = np.argsort(_uniform(groups, settings.seed), kind="stable")
    order = order[~(is_out | is_known)[order]]
    before = np.cumsum(rows[order]) - rows[order]
    total, taken = rows.sum(), rows[is_out].sum()
    if held:
        total, taken = total + held.rows[:2].sum(), taken + held.rows[1]
    is_out[order] = before < settings.holdout * total - taken
    split_A = part_A.copy()
    split_A[train_n[is_out[of_n]]] = SPLITS.index("holdout")
    return split_A


def _uniform(hash_n: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """[n] numbers in [0, 1) by hash and seed."""
    hash_n = hash_n * np.uint64(2 * seed + 0x9E3779B97F4A7C15)
    hash_n = (hash_n ^ (hash_n >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return (hash_n >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _noisy(
    found: Columns, row_A: NDArray[np.int64], split_A: NDArray[np.int8], settings: PackSettings
) -> NDArray[np.int16]:
    """[A] labels to train on; those of the test split stay."""
    assert settings.noise is not None, "asked for"
    noise, label_A = parse_noise(settings.noise), found.label_N[row_A].copy()
    if isinstance(noise, Symmetric):
        ours = split_A != TEST
        label_A[ours] = symmetric(label_A[ours], noise.share, len(settings.class_names), settings.seed)
        return label_A
    if isinstance(noise, ConfusedClasses):
        ours, confusion_CC = split_A != TEST, read_confusion(noise.uri, settings.class_names)
        label_A[ours] = weighted(label_A[ours], confusion_CC[label_A[ours]], noise.share, settings.seed)
        return label_A
    if not isinstance(noise, NoiseList):
        raise SettingError(
            "--noise by the raters' votes is for data that are packed: python jobs/experiment.py noise --kind instance "
            f"or votes makes versions of it, got {settings.noise}"
        )
    row_n, label_n = _listed(noise.uri, found, settings.class_names)
    listed_N = np.full(len(found.label_N), -1, dtype=np.int16)
    listed_N[row_n] = label_n
    listed_A = listed_N[row_A]
    if ((split_A == TEST) & (listed_A >= 0) & (listed_A != label_A)).any():
        raise DataError(f"{noise.uri} gives test rows other labels; test labels stay as they are")
    return np.where(listed_A >= 0, listed_A, label_A)


def _listed(uri: str, found: Columns, class_names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """[n] the rows that a noise list names, and their labels in it; a name that no row has is a DataError."""
    names, words = read_list(uri)
    order = np.argsort(found.hash_N, kind="stable")
    sorted_N = found.hash_N[order]
    row_n = np.full(len(names), -1, dtype=np.int64)
    candidates = [[*candidate_keys(name), *_keys_apart(name)] for name in names]
    for rank in range(max(len(keys) for keys in candidates)):
        hash_n = np.array([key_hash(keys[min(rank, len(keys) - 1)]) for keys in candidates], dtype=np.uint64)
        place_n = np.minimum(np.searchsorted(sorted_N, hash_n), len(sorted_N) - 1)
        hit_n = (sorted_N[place_n] == hash_n) & (row_n < 0)
        row_n[hit_n] = order[place_n[hit_n]]
    if (row_n < 0).any():
        missing = names[int((row_n < 0).argmax())]
        raise DataError(
            f"{uri} names {missing!r}, and {int((row_n < 0).sum()) - 1} more, which are no rows of the data"
        )
    return row_n, list_labels(uri, words, found.label_N[row_n], class_names)


def _keys_apart(name: str) -> list[str]:
    """The keys of a row of this name where keys meet, see ``keys.tell_apart``."""
    return [key_apart(sanitise_key(name), f"{part}/{name}") for part in SPLITS]


def _check_classes(counts: Mapping[str, tuple[int, ...]], class_names: Sequence[str]) -> None:
    if 0 in counts["train"]:
        raise SettingError(
            f"every class must have a training sample, got none of {class_names[counts['train'].index(0)]!r} "
            "(leave it out of --classes, or lower --holdout)"
        )
