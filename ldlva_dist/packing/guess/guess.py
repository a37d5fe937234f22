"""What a path is: every kind that fits, with its command, its classes and its counts. No image is decoded."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import tyro

from ldlva_dist import storage
from ldlva_dist.dataset.manifest import DATASET
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.classes.class_index import ClassIndex, StatedClasses, as_option, is_emotion, spelling
from ldlva_dist.packing.classes.known_sets import AFFECTNET, ORDERS, KnownOrder
from ldlva_dist.packing.classes.numbers import numbers_among
from ldlva_dist.packing.classes.published_counts import compare_counts
from ldlva_dist.packing.guess.containers import guess_parquet, guess_tars
from ldlva_dist.packing.guess.folders import guess_folder
from ldlva_dist.packing.guess.look import IMAGES, LABEL, TABLES, TARS, Candidate, PathView, look_again
from ldlva_dist.packing.guess.tables import guess_table
from ldlva_dist.packing.sources.commands import Command
from ldlva_dist.packing.sources.common import Common, KnownClasses
from ldlva_dist.packing.sources.readers.folder import FolderSource
from ldlva_dist.packing.sources.readers.pixels import PixelsSource
from ldlva_dist.packing.sources.readers.yolo import YoloSource
from ldlva_dist.packing.sources.rows import LEFT_OUT, REFERENCE_CLASSES, Source
from ldlva_dist.storage.csv_file import csv_columns

_SEVERAL = re.compile(r"\s*[-+.\d]+(\s+[-+.\d]+)+\s*")
MAX_ROWS = 100_000
"""Rows that are counted where an annotation or a tar must be opened for each."""
EIGHT = AFFECTNET[:8]
STRANGE = {
    (".zip", ".rar", ".7z"): "is an archive: unpack it first",
    (".pt", ".pth", ".pkl", ".pickle", ".npy", ".npz", ".joblib"): "may hold pickled objects, which are never opened",
    (".mat", ".h5", ".hdf5"): "is a format that is not read: write its rows to a CSV or parquet file",
}
Counts = Mapping[str, Counter[str]]
"""By part: how often each label stands there."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A kind that fits, looked at."""

    why: str
    words: Sequence[str]
    """The kind and its options, but for --output."""
    command: str
    """To be typed."""
    counts: Counts
    """Counts by part and class, or by label as given where nobody knows what it means."""
    notes: Sequence[str]
    """Sentences on what is missing, unclear, or published."""


def guess(uri: str, output: str = "DATASET", *, label: str | None = None) -> list[Guess]:
    """Every kind that fits; a known set before what fits anybody's data.

    Args:
        uri: A folder or file.
        output: Folder that the commands shall write.
        label: Column of a table's labels; None where it is to be found, too.

    Raises:
        SettingError: where nothing is there.
        DataError: where nothing that can be packed was recognised.
    """
    look_again()
    uri = uri.rstrip("/") or "/"
    if not storage.exists(uri) and not PathView(uri).entries:
        raise SettingError(f"PATH must name what exists, got {uri!r}")
    if PathView(uri).has(DATASET):
        raise DataError(f"{uri} is a packed data set: python jobs/build_index.py --dataset {uri} finds its neighbours")
    candidates = list(_candidates(PathView(uri), label))
    candidates = [candidate for candidate in candidates if candidate.is_sure] or candidates
    if not candidates:
        name = uri.rpartition("/")[2].lower()
        known = next((said for endings, said in STRANGE.items() if name.endswith(endings)), None)
        raise DataError(
            f"{uri} {known}" if known else f"{uri} is no layout that is known; seen: {_seen(PathView(uri))}"
        )
    return [_examine(candidate, output) for candidate in candidates]


def _candidates(look: PathView, label: str | None) -> Iterator[Candidate]:
    if look.entries:
        yield from guess_folder(look)
        return
    folder = PathView(look.uri.rpartition("/")[0] or ".")
    name = look.uri.lower()
    if name.endswith((*TABLES, ".lst")):
        yield from guess_table(look, folder, label)
    elif name.endswith(TARS):
        yield guess_tars([look.uri], "a tar")
    elif name.endswith(".parquet"):
        yield from filter(None, [guess_parquet([look.uri], "a parquet file")])
    elif name.endswith(("data.yaml", "data.yml")):
        yield from guess_folder(folder)


def _seen(look: PathView) -> str:
    names = list(look.entries) or _columns(look.uri)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


def _columns(uri: str) -> list[str]:
    """Those of a table; none of a folder or of another file."""
    try:
        return [f"column {name!r}" for name in csv_columns(uri)] if uri.lower().endswith(TABLES) else []
    except DataError:
        return []


def _examine(candidate: Candidate, output: str) -> Guess:
    """Count the labels, settle the classes, compare with what is published."""
    words, notes = list(candidate.arguments), list(candidate.missing)
    counts: Counts = {}
    if not {IMAGES, LABEL} & set(words):
        try:
            words, counts, more = _counted(candidate.kind, words, output)
            notes += more
        except (DataError, SettingError) as error:
            notes.append(str(error))
    line = shlex.join(["python", "jobs/make_shards.py", candidate.kind, "--output", output, *words])
    return Guess(
        why=f"{candidate.kind}: {candidate.why}",
        words=(candidate.kind, *words),
        command=line,
        counts=counts,
        notes=notes,
    )


def class_options(words: Sequence[str], output: str = "DATASET") -> tuple[list[str], list[str]]:
    """Options that name the classes, where the labels of a source are others than the default ones.

    Args:
        words: Kind and options of a source, but for ``--output``.
        output: Stands for that one in sentences.

    Returns:
        Words to add, none where nothing has to be said; and sentences on what is unclear.

    Raises:
        SettingError, DataError: as packing would.
    """
    kind, *own = words
    settled, _, notes = _counted(kind, own, output)
    return settled[len(own) :], notes


def _counted(kind: str, words: list[str], output: str) -> tuple[list[str], Counts, list[str]]:
    """The arguments with the classes, the counts by class, and what is to be said of them."""
    notes: list[str] = []
    command = _parsed(kind, words, output)
    try:
        command.source().partitions()
    except SettingError as error:
        if "--label-by" not in str(error):
            raise
        notes.append(f"{error}; the command takes the column")
        words = [*words, "--label-by", "column"]
        command = _parsed(kind, words, output)
    counts, whole = _label_counts(command.source())
    if not whole:
        notes.append(f"counted in the first {MAX_ROWS:,} rows")
    labels = [label for part in counts.values() for label in part]
    if labels and all(map(_SEVERAL.fullmatch, labels)):
        said = f"a label holds several numbers, such as {labels[0]!r}, perhaps a class and a box"
        return words, counts, [*notes, f"{said}: put each into a column of its own"]
    bare = numbers_among(labels)
    stated = command.stated()
    if isinstance(command, KnownClasses):
        eight = any(spelling(label) == "contempt" for label in labels) and command.num_classes == 7
        words = [*words, "--num-classes", "8"] if eight else words
        stated = StatedClasses(EIGHT if eight or command.num_classes == 8 else REFERENCE_CLASSES, None)
    elif bare and not stated.numbers:
        order, said = _order(bare, counts)
        notes += said
        if order is None:
            return words, counts, notes
        stated = StatedClasses(tuple(order.numbers.values()), order.numbers)
        words = [*words, *shlex.split(as_option(order.numbers))]
    elif not bare or stated.numbers:
        words, stated, said = _named(words, command, stated, labels)
        notes += said
    named = _by_class(counts, stated)
    if whole:
        notes += _published(named, stated.names)
    return words, named, notes


def _parsed(kind: str, words: Sequence[str], output: str) -> Command:
    return tyro.cli(Command, args=[kind, "--output", output, *words])


def _label_counts(source: Source) -> tuple[Counts, bool]:
    """The labels of each part, without making an image, and whether all rows were counted."""
    if isinstance(source, PixelsSource):
        return source.label_counts(), True
    if isinstance(source, FolderSource):
        source = replace(source, boxes=None)
    if isinstance(source, YoloSource):
        source = replace(source, crop=False)
    counts: dict[str, Counter[str]] = {}
    rows = 0
    for partition in source.partitions():
        for block in source.read(partition):
            reasons = block.reasons or [None] * len(block.keys)
            kept = (
                label
                for label, reason in zip(block.labels, reasons, strict=True)
                if label is not None and (reason is None or spelling(reason.removeprefix(LEFT_OUT)) == "contempt")
            )
            counts.setdefault(partition.part, Counter()).update(kept)
            rows += len(block.keys)
        if rows >= MAX_ROWS and not isinstance(source, FolderSource):
            return counts, False
    return counts, True


def _order(numbers: Sequence[int], counts: Counts) -> tuple[KnownOrder | None, list[str]]:
    """What numbers mean: the order under which the counts are published ones, or else what is to be asked."""
    exact = [order for order in ORDERS if set(order.numbers) == set(numbers)]
    fitting = exact or [order for order in ORDERS if set(order.numbers) >= set(numbers)]
    for order in fitting:
        stated = StatedClasses(tuple(order.numbers.values()), order.numbers)
        said = [line for line in _published(_by_class(counts, stated), stated.names) if "warning" not in line]
        if said:
            return order, []
    asked = f"the labels are numbers ({', '.join(map(str, numbers[:12]))}), and nothing here says what they mean"
    options = [f"fits: {order.where}: {as_option(order.numbers)}" for order in fitting]
    return None, [asked, *(options or ["no known order fits: --classes 0=NAME 1=NAME ..."])]


def _named(
    words: list[str], command: Common, stated: StatedClasses, labels: Sequence[str]
) -> tuple[list[str], StatedClasses, list[str]]:
    """Names of the classes where the default ones do not fit the labels that are names."""
    index = ClassIndex(stated.names, stated.numbers)
    present = {index.find(label) for label in labels}
    if command.classes or (present == set(range(len(stated.names))) and None not in present):
        return words, stated, []
    if bare := numbers_among(labels):
        meaning = {number: (stated.numbers or {}).get(number) for number in bare}
        numbers = {number: name for number, name in meaning.items() if name is not None and is_emotion(name)}
        return [*words, *shlex.split(as_option(numbers))], StatedClasses(tuple(numbers.values()), numbers), []
    spelled = {spelling(label) for label in labels if not index.is_missing(label)}
    known = [name for name in EIGHT if spelling(name) in spelled]
    strange = sorted({label for label in labels if not is_emotion(label) and not numbers_among([label])})
    names = [*known, *strange] if len(known) < 2 else known
    said = (
        [f"labels that are no known emotion: {', '.join(map(repr, strange[:8]))}"] if strange and names == known else []
    )
    if len(names) < 2:
        return words, stated, said
    return [*words, "--classes", *names], StatedClasses(tuple(names), {}), said


def _by_class(counts: Counts, stated: StatedClasses) -> Counts:
    index = ClassIndex(stated.names, stated.numbers)
    found: dict[str, Counter[str]] = {}
    for part, labels in counts.items():
        found[part] = Counter()
        for label, count in labels.items():
            place = index.find(label)
            found[part][f"{label} (no class)" if place is None else index.class_names[place]] += count
    return found


def _published(counts: Counts, class_names: Sequence[str]) -> list[str]:
    lists = {part: [counts.get(part, {}).get(name, 0) for name in class_names] for part in ("train", "holdout", "test")}
    return list(compare_counts(class_names, lists)) if any(map(any, lists.values())) else []
