"""Wrong labels on purpose: drawn, or from a published list. N = all rows of the train and holdout parts, C = classes.

Published lists (RAF-DB's, and those that the same authors made for FER+ and AffectNet) are lines "image-name label".
Some count classes from 0, some from 1, in an order of their own; the rows that a list leaves unchanged tell which.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.classes.class_index import ClassIndex, whole_number
from ldlva_dist.packing.classes.known_sets import RAF_DB
from ldlva_dist.storage.csv_file import read_text

_TAG = 0x6E6F6973  # keeps these draws apart from others of the same seed


@dataclass(frozen=True)
class Symmetric:
    """Exactly round(share * N) labels are replaced, uniformly by one of the other classes."""

    share: float


@dataclass(frozen=True)
class NoiseList:
    """Labels from a list; rows that it does not name keep theirs."""

    uri: str


def parse_noise(text: str) -> Symmetric | NoiseList:
    """``symmetric:SHARE`` or ``list:FILE``; anything else is a SettingError."""
    kind, _, value = text.partition(":")
    if kind == "list" and value:
        return NoiseList(value)
    try:
        share = float(value) if kind == "symmetric" else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SettingError(f"--noise must be symmetric:SHARE with a share in [0, 1], or list:FILE, got {text!r}")
    return Symmetric(share)


def symmetric(labels_N: NDArray[np.int16], share: float, num_classes: int, seed: int) -> NDArray[np.int16]:
    """[N] labels of which exactly round(share * N) are wrong, by ``seed``."""
    generator = np.random.default_rng((seed, _TAG))
    chosen = generator.permutation(len(labels_N))[: round(share * len(labels_N))]
    noisy_N = labels_N.copy()
    noisy_N[chosen] = (labels_N[chosen] + generator.integers(1, num_classes, len(chosen))) % num_classes
    return noisy_N


def read_list(uri: str) -> tuple[list[str], list[str]]:
    """Names and labels of a list, as they stand there; a line that is not "image-name label" is a DataError."""
    names, labels = [], []
    for number, line in enumerate(read_text(uri).splitlines(), 1):
        if not line.strip():
            continue
        words = line.replace(",", " ").split()
        if len(words) < 2:
            raise DataError(f"{uri}, line {number}: must be 'image-name label', got {line.strip()[:80]!r}")
        names.append(words[0])
        labels.append(words[1])
    if not names:
        raise DataError(f"{uri} is an empty noise list")
    return names, labels


def candidate_keys(name: str) -> list[str]:
    """The keys that a row named so in a list may have: with its folders or without, aligned or not."""
    keys = []
    for path in (name, name.replace("\\", "/").rpartition("/")[2]):
        key = sanitise_key(path)
        plain = key.removesuffix("_aligned")
        keys += [key, plain, f"{plain}_aligned"]
    return list(dict.fromkeys(keys))


def list_labels(
    uri: str, words_n: Sequence[str], given_n: NDArray[np.int16], class_names: Sequence[str]
) -> NDArray[np.int16]:
    """[n] class indices of a list's labels, for rows of labels ``given_n`` [n] (-1: unknown).

    Names are looked up. Numbers are read in whichever way most rows confirm: indices from 0, places from 1, or
    RAF-DB's own places; where not even half of the rows do, it is no list of this data set.
    """
    numbers = [whole_number(word) for word in words_n]
    if None in numbers:
        classes = ClassIndex(class_names)
        found = [classes.find(word) for word in words_n]
        if None in found:
            raise DataError(f"{uri}: the label {words_n[found.index(None)]!r} is no class")
        return np.asarray(found, dtype=np.int16)
    readings = [read for read in _readings(class_names) if set(numbers) <= set(read)]
    tried = [np.asarray([read[number] for number in numbers], dtype=np.int16) for read in readings]
    known_n = given_n >= 0
    shares = [float((label_n == given_n)[known_n].mean()) if known_n.any() else 0.0 for label_n in tried]
    if not shares or max(shares) < 0.5:
        raise DataError(
            f"{uri}: its numbers must be the data's own labels in at least half of the rows, however they are counted; "
            f"they are in {max(shares, default=0.0):.0%} (write class names instead of numbers)"
        )
    return tried[int(np.argmax(shares))]


def _readings(class_names: Sequence[str]) -> list[dict[int | None, int]]:
    """What number stands for which class index, in every way that lists are written."""
    numbers = range(len(class_names))
    readings: list[dict[int | None, int]] = [{i: i for i in numbers}, {i + 1: i for i in numbers}]
    classes = ClassIndex(class_names)
    places = [classes.find(name) for name in RAF_DB]
    raf: dict[int | None, int] = {i + 1: index for i, index in enumerate(places) if index is not None}
    return [*readings, raf] if len(raf) == len(RAF_DB) else readings
