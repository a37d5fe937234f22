"""Wrong labels on purpose: drawn, or from a published list. N = all rows of the train and holdout parts, C = classes.

Published lists (RAF-DB's, and those that the same authors made for FER+ and AffectNet) are lines "image-name label".
Some count classes from 0, some from 1, in an order of their own; the rows that a list leaves unchanged tell which.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.classes.class_index import ClassIndex, whole_number
from ldlva_dist.packing.classes.known_sets import RAF_DB
from ldlva_dist.storage.csv_file import read_csv, read_text
from ldlva_dist.values.typed_json import parse_object

_TAG = 0x6E6F6973  # keeps these draws apart from others of the same seed


@dataclass(frozen=True)
class Symmetric:
    """Exactly round(share * N) labels are replaced, uniformly by one of the other classes."""

    share: float


@dataclass(frozen=True)
class ConfusedClasses:
    """Exactly round(share * N) labels are replaced as a network confuses their classes."""

    share: float
    uri: str
    """A matrix for :func:`read_confusion`."""


@dataclass(frozen=True)
class Instance:
    """Exactly round(share * N) labels are replaced, of ambiguous samples first, as raters or the truth see them."""

    share: float


@dataclass(frozen=True)
class Votes:
    """Every label is one rater's vote, drawn from the votes of its sample."""


@dataclass(frozen=True)
class NoiseList:
    """Labels from a list; rows that it does not name keep theirs."""

    uri: str


Noise = Symmetric | ConfusedClasses | Instance | Votes | NoiseList


def parse_noise(text: str) -> Noise:
    """One of the forms that the sentence of the error lists; anything else is a SettingError."""
    kind, _, value = text.partition(":")
    if kind == "list" and value:
        return NoiseList(value)
    if text == "votes":
        return Votes()
    number, _, uri = value.partition(":")
    share = _share(number)
    if share is not None and kind == "confusion" and uri:
        return ConfusedClasses(share, uri)
    if share is not None and not uri and kind in ("symmetric", "instance"):
        return Symmetric(share) if kind == "symmetric" else Instance(share)
    raise SettingError(
        "--noise must be symmetric:SHARE, confusion:SHARE:FILE, instance:SHARE, each with a share in [0, 1], votes, or "
        f"list:FILE, got {text!r}"
    )


def shown_noise(text: str) -> str:
    """The text without the folders of a file that it names, which are nobody else's business."""
    kind, *rest = text.split(":", 1 if text.startswith("list:") else 2)
    file = rest.pop() if kind in ("list", "confusion") else None
    return ":".join([kind, *rest, *([posixpath.basename(file)] if file else [])])


def _share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0 <= share <= 1 else None


def symmetric(labels_N: NDArray[np.int16], share: float, num_classes: int, seed: int) -> NDArray[np.int16]:
    """[N] labels of which exactly round(share * N) are wrong, by ``seed``."""
    generator = np.random.default_rng((seed, _TAG))
    chosen = generator.permutation(len(labels_N))[: round(share * len(labels_N))]
    noisy_N = labels_N.copy()
    noisy_N[chosen] = (labels_N[chosen] + generator.integers(1, num_classes, len(chosen))) % num_classes
    return noisy_N


def weighted(
    labels_N: NDArray[np.int16], weights_NC: NDArray[np.floating], share: float, seed: int
) -> NDArray[np.int16]:
    """Replace exactly round(share * N) labels, likely ones first, by likely classes.

    Rows are drawn without replacement in proportion to the weight of their other classes, and each row's new class in
    proportion to the weights of those.

    Args:
        labels_N: [N] given labels.
        weights_NC: [N, C] weights >= 0 of the classes that a label may become; its own does not count.
        share: In [0, 1].
        seed: The same draws come of the same seed.

    Raises:
        SettingError: where fewer rows than that have another class to become.
    """
    count, rows = round(share * len(labels_N)), np.arange(len(labels_N))
    others_NC = np.array(weights_NC, dtype=np.float64)
    others_NC[rows, labels_N] = 0
    total_N = others_NC.sum(axis=1)
    if count > (total_N > 0).sum():
        raise SettingError(
            f"a noise level must be at most {(total_N > 0).mean():.3g}, the share of labels that could have been "
            f"another, got {share:g}"
        )
    generator = np.random.default_rng((seed, _TAG))
    with np.errstate(divide="ignore"):
        order_N = -(np.log(total_N) + generator.gumbel(size=len(labels_N)))  # the largest are a draw by weight
    chosen = np.argsort(order_N, kind="stable")[:count]
    noisy_N = labels_N.copy()
    noisy_N[chosen] = _drawn(others_NC[chosen], generator)
    return noisy_N


def one_vote(labels_N: NDArray[np.int16], votes_NC: NDArray[np.floating], seed: int) -> NDArray[np.int16]:
    """[N] one vote of each row, drawn; a row without votes keeps its label."""
    noisy_N, voted_N = labels_N.copy(), votes_NC.sum(axis=1) > 0
    noisy_N[voted_N] = _drawn(votes_NC[voted_N], np.random.default_rng((seed, _TAG)))
    return noisy_N


def _drawn(weights_nC: NDArray[np.floating], generator: np.random.Generator) -> NDArray[np.int64]:
    """[n] one column of each row in proportion to its weights, which have a sum > 0."""
    upto_nC = np.cumsum(weights_nC.astype(np.float64), axis=1)
    total_n1 = upto_nC[:, -1:]
    point_n1 = np.minimum(generator.random(total_n1.shape) * total_n1, np.nextafter(total_n1, 0))
    return (point_n1 >= upto_nC).sum(axis=1)


def read_confusion(uri: str, class_names: Sequence[str]) -> NDArray[np.float64]:
    """How often each class is taken for which: a CSV, or the evaluation.json of a run on the same classes.

    The CSV has a column ``given`` with a class a row, and a column for each class with counts or shares >= 0.

    Returns:
        [C, C] rows of given classes that sum to 1; the diagonal counts, too.

    Raises:
        DataError: for a file that does not say so of every class.
    """
    matrix = _of_evaluation(uri) if uri.endswith(".json") else _of_csv(uri, class_names)
    right = matrix.shape == (len(class_names),) * 2 and np.isfinite(matrix).all() and (matrix >= 0).all()
    if not right or not (matrix.sum(axis=1) > 0).all():
        raise DataError(
            f"{uri} must have numbers >= 0 for each of the {len(class_names)} classes, not all of them 0, "
            f"got a matrix of {' x '.join(map(str, matrix.shape)) or 'one number'}"
        )
    return matrix / matrix.sum(axis=1, keepdims=True)


def _of_evaluation(uri: str) -> NDArray[np.float64]:
    given = parse_object(storage.read_bytes(uri), uri).get("given")
    matrix = given.get("confusion") if isinstance(given, dict) else None
    try:
        return np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{uri} must have given.confusion, a matrix of numbers, got {str(matrix)[:40]!r}") from error


def _of_csv(uri: str, class_names: Sequence[str]) -> NDArray[np.float64]:
    table = read_csv(uri)
    missing = {"given", *class_names} - set(table.column_names)
    rows = [] if missing else table["given"].to_pylist()
    if missing or sorted(rows) != sorted(class_names):
        raise DataError(
            f"{uri} must have the columns given, {', '.join(class_names)} and a row for each class, "
            f"got the columns {', '.join(table.column_names)[:200]} and {len(table)} rows"
        )
    try:
        values = np.array([[float(cell) for cell in table[name].to_pylist()] for name in class_names])
    except ValueError as error:
        raise DataError(f"{uri}: {error}; the cells must be numbers") from error
    return values.T[[rows.index(name) for name in class_names]]


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
