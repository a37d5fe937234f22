"""Which samples the page shows, and what it says of each.

N = training samples, n = shown, K = neighbours, C = classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from numpy.typing import NDArray

from ldlva_dist.analysis.metrics import vote_entropy
from ldlva_dist.errors import SettingError

KINDS = ("mislabelled", "doubted", "uncertain", "confident", "copied")
"""A sample can be of several; kind i is bit i."""
SHARES = (0.5, 0.35, 0.15)
"""Shares of the samples that are shown: mislabelled and doubted ones together, uncertain, confident."""
COPIED = 0.1
"""So many more at most, whose picture is there with another label too."""
FEWEST = 4
"""Samples on a page."""
PAIRS = 200
"""Pairs of a given and a proposed class, the commonest."""
LIKELIEST = 24
"""Classes of one sample that the page tells of, where there are more."""
DECIMALS, PLACES = 3, 5
"""Decimals of shares, and of places in the plane, which is zoomed into."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The samples on the page, by id in ascending order; everything of them that is not an image."""

    ids_n: NDArray[np.int64]
    kinds_n: NDArray[np.int64]
    """Bits of KINDS."""
    keys_n: Sequence[str]
    labels_n: NDArray[np.int64]
    proposed_n: NDArray[np.int64]
    ranks_n: NDArray[np.int64]
    uncertainty_n: NDArray[np.float32]
    probs_nC: NDArray[np.float32]
    aggregated_nC: NDArray[np.float32]
    target_nC: NDArray[np.float32]
    neighbors_nK: NDArray[np.int64]
    shares_nK: NDArray[np.float32]
    truth_nC: NDArray[np.float32] | None = None
    """Raters' votes or true distributions, where the data set has them; rows sum to 1, or to 0 where none is known."""
    truth_name: str = "truth"
    extra: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """Extra columns of the manifest, by their names."""
    epochs_E: NDArray[np.float64] | None = None
    history_En: NDArray[np.float32] | None = None
    """Uncertainty over the epochs, where the run kept it."""


def choose_samples(
    suspicion_N: NDArray[np.float64],
    uncertainty_N: NDArray[np.float32],
    is_listed_N: NDArray[np.bool_],
    is_proposed_N: NDArray[np.bool_],
    count: int,
    copied: Sequence[int] = (),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids [n] in ascending order, n <= ``count``, and kinds [n] of the samples to show.

    Mislabelled: on the list of probably wrong labels. Doubted: another class is proposed. Of both the highest suspicion
    comes first, and what is on the list before what is not. Uncertain: highest uncertainty. Confident: lowest
    suspicion. Ties go to the smaller id. Copied: the first of ``copied``, on top of ``count``.
    """
    if count < FEWEST:
        raise SettingError(f"--samples must be >= {FEWEST}, got {count}")
    kinds_N = np.zeros(len(suspicion_N), dtype=np.int64)
    suspicious = np.argsort(-suspicion_N, kind="stable")
    is_other_N = is_proposed_N & ~is_listed_N
    orders = (
        np.concatenate([suspicious[kind_N[suspicious]] for kind_N in (is_listed_N, is_other_N)]),
        np.argsort(-uncertainty_N, kind="stable"),
        np.argsort(suspicion_N, kind="stable"),
    )
    doubtful, uncertain, confident = (order[: int(share * count)] for order, share in zip(orders, SHARES, strict=True))
    kinds_N[doubtful] = is_listed_N[doubtful] + 2 * is_proposed_N[doubtful]
    kinds_N[uncertain] |= 4
    kinds_N[confident] |= 8
    kinds_N[np.array(copied[: int(COPIED * count)], dtype=np.int64)] |= 16
    ids_n = np.flatnonzero(kinds_N)
    return ids_n, kinds_N[ids_n]


def pairs_as_json(
    labels_N: NDArray[np.int64], proposed_N: NDArray[np.int64], is_listed_N: NDArray[np.bool_]
) -> dict[str, Any]:
    """How often which class is proposed in the place of which: the PAIRS commonest, and how many labels they are of.

    Returns:
        ``pairs``: given class, proposed class, labels, and labels of them that are on the list of probably wrong ones;
        ``doubted`` labels in all, and ``pairKinds``: pairs in all.
    """
    is_other_N = labels_N != proposed_N
    pairs_M2 = np.stack([labels_N[is_other_N], proposed_N[is_other_N]], axis=1)
    pair_P2, which_M, count_P = np.unique(pairs_M2, axis=0, return_inverse=True, return_counts=True)
    listed_P = np.bincount(which_M.ravel(), weights=is_listed_N[is_other_N], minlength=len(pair_P2)).astype(np.int64)
    order = np.argsort(-count_P, kind="stable")[:PAIRS]
    columns = np.concatenate([pair_P2, count_P[:, None], listed_P[:, None]], axis=1)[order]
    return {"pairs": columns.tolist(), "doubted": int(is_other_N.sum()), "pairKinds": len(pair_P2)}


def pictured_neighbors(shown: Shown) -> NDArray[np.int64]:
    """Ids of all neighbours, each once, those that matter first: of suspicious samples, of large shares."""
    place_nK = np.argsort(np.argsort(-shown.shares_nK, axis=1, kind="stable"), axis=1)
    order = np.lexsort((np.repeat(shown.ranks_n, shown.shares_nK.shape[1]), place_nK.ravel()))
    ids = shown.neighbors_nK.ravel()[order]
    first = np.sort(np.unique(ids, return_index=True)[1])
    return ids[first]


def as_json(
    shown: Shown, labels_N: NDArray[np.int64], va_N2: NDArray[np.float32], picture_of: dict[int, int]
) -> dict[str, Any]:
    """Columns for the page's script; ``picture_of`` gives a neighbour's place among its pictures, if it has one."""
    others, place_nK = np.unique(shown.neighbors_nK, return_inverse=True)
    columns: dict[str, Any] = {
        "id": shown.ids_n.tolist(),
        "key": list(shown.keys_n),
        "kinds": shown.kinds_n.tolist(),
        "label": shown.labels_n.tolist(),
        "proposed": shown.proposed_n.tolist(),
        "rank": shown.ranks_n.tolist(),
        "uncertainty": _short(shown.uncertainty_n),
        "va": _short(va_N2[shown.ids_n], PLACES),
        "near": place_nK.reshape(shown.neighbors_nK.shape).tolist(),
        "shares": _short(shown.shares_nK),
        "extra": {name: list(values) for name, values in shown.extra.items()},
    }
    if shown.truth_nC is not None:
        columns["entropy"] = _short(vote_entropy(shown.truth_nC))
    columns |= _distributions(shown)
    if shown.history_En is not None and shown.epochs_E is not None and len(shown.epochs_E):
        columns["history"] = _short(shown.history_En.T)
    return {
        "kinds": list(KINDS),
        "truthName": shown.truth_name,
        "epochs": [] if shown.epochs_E is None else _short(shown.epochs_E),
        "samples": columns,
        "others": {
            "id": others.tolist(),
            "label": labels_N[others].tolist(),
            "va": _short(va_N2[others], PLACES),
            "picture": [picture_of.get(i, -1) for i in others.tolist()],
        },
    }


def _distributions(shown: Shown) -> dict[str, Any]:
    """Who says what of each sample: of all classes, or of the LIKELIEST, whose indices are ``classes`` then."""
    said = {"model": shown.probs_nC, "neighbors": shown.aggregated_nC, "target": shown.target_nC}
    if shown.truth_nC is not None:
        said["truth"] = shown.truth_nC
    if shown.probs_nC.shape[1] <= LIKELIEST:
        return {name: _short(shares_nC) for name, shares_nC in said.items()}
    most_nC, rows = np.max(list(said.values()), axis=0), np.arange(len(shown.ids_n))
    most_nC[rows, shown.labels_n] = most_nC[rows, shown.proposed_n] = np.inf  # always shown
    classes_nT = np.sort(np.argpartition(-most_nC, LIKELIEST, axis=1)[:, :LIKELIEST], axis=1)
    short = {name: _short(np.take_along_axis(shares_nC, classes_nT, axis=1)) for name, shares_nC in said.items()}
    return {"classes": classes_nT.tolist(), **short}


def picture_bytes(data: dict[str, Any]) -> int:
    """Characters of the data in the page, at most; at the end every picture is a number of five digits."""
    return len(htmlsafe_json_dumps(data)) + 7 * (len(data["others"]["id"]) + len(data["samples"]["id"]))


def _short(values: NDArray[Any], decimals: int = DECIMALS) -> list[Any]:
    """Rounded: JSON of float64 would be five times as long. NaN is no JSON."""
    return np.round(np.nan_to_num(values.astype(np.float64)), decimals).tolist()
