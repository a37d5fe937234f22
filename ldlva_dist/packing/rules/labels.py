"""Whether the labels of all rows can be read as the classes: the rules that need all of them."""

from collections import Counter
from collections.abc import Iterator, Mapping

from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.classes.known_sets import AFFECTNET
from ldlva_dist.packing.classes.numbers import ask_what_numbers_mean, count_from_one, how_read, numbers_among
from ldlva_dist.packing.classes.published_counts import compare_counts
from ldlva_dist.packing.passes.choose import Chosen
from ldlva_dist.packing.passes.pass1_survey import NO_LABEL, UNKNOWN_LABEL, is_outside_budget
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.survey_columns import Columns

EXAMPLES = 8


def check_labels(found: Columns, settings: PackSettings) -> None:
    """Refuse labels that cannot be read, unless other faults of the rows are to be said first.

    Raises:
        SettingError: where numbers are labels whose meaning nobody said, or that count from 1, or where no label at all
            is a class.
        DataError: where no row has a label. Labels that are no class are left to the budget.
    """
    counts, total = found.counts(), len(found.code_N)
    labelled = total - counts.get(NO_LABEL, 0)
    if not total:
        raise DataError("the data set is empty: its tables hold no rows")
    if not labelled:
        raise DataError(f"the data set is empty: none of its {total} rows has a label")
    allowed = settings.max_rejected * labelled
    others = sum(counts.values()) - sum(
        n for reason, n in counts.items() if reason == UNKNOWN_LABEL or is_outside_budget(reason)
    )
    if others <= allowed:
        _refuse(found, settings, labelled, allowed)


def label_notes(found: Columns, chosen: Chosen, settings: PackSettings) -> Iterator[str]:
    """How labels were read where only the layout says it, what was no class, and which known set the counts are of."""
    numbers = numbers_among(found.labels)
    if numbers and settings.numbers == dict(enumerate(AFFECTNET)):
        yield (
            f"labels are numbers and read in AffectNet's order: {how_read(numbers, settings.classes)}; "
            "if that is wrong, say --classes"
        )
    if found.unknown:
        yield f"labels that are no class: {quote_labels(found.unknown)}"
    if not chosen.flip_share():
        yield from compare_counts(settings.class_names, chosen.class_counts(len(settings.class_names)))


def quote_labels(labels: Mapping[str, int]) -> str:
    """The most frequent labels, each with its rows."""
    listed = [f"{label!r} ({count})" for label, count in Counter(labels).most_common(EXAMPLES)]
    return ", ".join(listed) + (f" and {len(labels) - EXAMPLES} more" if len(labels) > EXAMPLES else "")


def _refuse(found: Columns, settings: PackSettings, labelled: int, allowed: float) -> None:
    classes, unknown = settings.classes, found.unknown
    rows = found.counts().get(UNKNOWN_LABEL, 0)
    if rows <= allowed:
        return
    if sentence := count_from_one(numbers_among(found.labels), classes):
        raise SettingError(sentence)
    bare = numbers_among(unknown)
    if bare and not classes.numbers:
        raise SettingError(ask_what_numbers_mean(bare))
    if rows == labelled:
        raise SettingError(
            f"--classes must name the labels of the data ({', '.join(sorted(unknown)[:EXAMPLES])}), "
            f"got {settings.class_names}"
        )
