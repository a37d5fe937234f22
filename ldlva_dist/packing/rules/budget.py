"""What a packing may lose: a share of each part, and never a whole part. N = all rows."""

from collections.abc import Mapping

import numpy as np

from ldlva_dist.dataset.manifest import SPLITS
from ldlva_dist.errors import DataError
from ldlva_dist.packing.passes.pass1_survey import UNKNOWN_LABEL, is_outside_budget
from ldlva_dist.packing.passes.survey_columns import Repeated
from ldlva_dist.packing.rules.labels import quote_labels
from ldlva_dist.packing.rules.places import Places

EXAMPLES, REASONS = 3, 3
PART_NAMES = {"train": "train", "holdout": "holdout (validation)", "test": "test"}


def check_budget(places: Places, repeated: Repeated, max_rejected: float, *, may_be_empty: bool = False) -> None:
    """DataError, with reasons and the first places, for a part that loses more than this share or has no row left.

    With ``may_be_empty`` a part may have no row, but not all of them.
    """
    found, parts = places.found, [partition.part for partition in places.partitions]
    part_N = np.repeat(np.array([SPLITS.index(part) for part in parts], dtype=np.int8), found.rows_P)
    for part in dict.fromkeys(parts):
        mine_N = part_N == SPLITS.index(part)
        counts, accepted = found.counts(mine_N), int((found.code_N[mine_N] < 0).sum())
        bad = {reason: count for reason, count in counts.items() if not is_outside_budget(reason)}
        rejected = sum(bad.values())
        if rejected > max_rejected * (accepted + rejected):
            wrong_N = mine_N & np.isin(found.code_N, [found.reasons.index(reason) for reason in bad])
            raise DataError(
                f"the {PART_NAMES[part]} part loses too much: {rejected} of {accepted + rejected} rows were rejected, "
                f"--max-rejected allows {max_rejected:.2%}: {_common(bad)}{_labels(bad, found.unknown)}; "
                f"the first: {_examples(places, repeated, wrong_N)}"
            )
        if not accepted and not may_be_empty:
            raise DataError(f"the {PART_NAMES[part]} part is empty: {_common(counts) or 'it holds no rows'}")
    if not (found.code_N < 0).any():
        raise DataError(f"there is nothing to add: {_common(found.counts())}")


def _common(counts: Mapping[str, int]) -> str:
    """The most common reasons."""
    common = sorted(counts.items(), key=lambda pair: -pair[1])[:REASONS]
    return ", ".join(f"{reason} ({count})" for reason, count in common)


def _labels(counts: Mapping[str, int], unknown: Mapping[str, int]) -> str:
    """The labels that are no class, where that is a reason."""
    return f"; no class of --classes is {quote_labels(unknown)}" if UNKNOWN_LABEL in counts else ""


def _examples(places: Places, repeated: Repeated, wrong_N: np.ndarray) -> str:
    """The first wrong rows; a repeated one with the row that it repeats."""
    rows_n = np.flatnonzero(wrong_N)[:EXAMPLES]
    befores = dict(zip(repeated.row_D.tolist(), repeated.first_D.tolist(), strict=True))
    said = []
    for row, place in zip(rows_n.tolist(), places.of(rows_n), strict=True):
        before = f" (first as {places.of(np.array([befores[row]]))[0]})" if row in befores else ""
        said.append(place + before)
    return ", ".join(said)
