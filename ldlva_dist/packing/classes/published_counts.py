"""Whether the counts of a set that was packed are those of a known one, under the same names."""

from collections.abc import Iterator, Mapping, Sequence

from ldlva_dist.packing.classes.class_index import spelling
from ldlva_dist.packing.classes.known_sets import PUBLISHED, PublishedPart

Counts = Mapping[str, int]


def compare_counts(class_names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Sentences about the parts whose counts are those of a known set's part, or contradict them.

    Args:
        class_names: Of the set that was packed.
        counts: Of train, holdout and test: samples of each class.
    """
    known = {part.of: _by_spelling(part.counts) for part in PUBLISHED}
    for name, part in _parts(class_names, counts).items():
        equal = [of for of, published in known.items() if published == part]
        if equal:
            yield f"{name}: the counts are those of {equal[0]}"
            continue
        for published in PUBLISHED:
            if published.total == sum(part.values()) and len(set(published.counts.values())) > 1:
                yield _contradiction(name, part, published)
                break


def _parts(class_names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> dict[str, Counts]:
    """What may be a part of a known set: the holdout may be one, or have been cut from the training part."""
    whole = [train + held for train, held in zip(counts["train"], counts["holdout"], strict=True)]
    parts = {"train and holdout" if any(counts["holdout"]) else "train": whole, **counts}
    everything = [sum(column) for column in zip(*counts.values(), strict=True)]
    if everything != whole:
        parts["all rows"] = everything
    return {name: _by_spelling(dict(zip(class_names, part, strict=True))) for name, part in parts.items() if any(part)}


def _contradiction(name: str, part: Counts, published: PublishedPart) -> str:
    differ = [
        f"{count} {word}, here {part.get(spelling(word), 0)}"
        for word, count in published.counts.items()
        if part.get(spelling(word), 0) != count
    ]
    return (
        f"warning: {name} has as many rows as {published.of} ({published.total:,}) but other counts: "
        f"{'; '.join(differ)} (are the labels read in the right order?)"
    )


def _by_spelling(counts: Counts) -> Counts:
    return {spelling(name): count for name, count in counts.items() if count}
