"""Versions for controlled experiments: labels flipped, or valence-arousal shuffled, on purpose; no image is touched.

N = rows of the train and holdout splits, which have the first ids; n = rows of one row group.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DATASET
from ldlva_dist.dataset.versions import Change, new_version, version_uri
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.noise import symmetric

VA = ("valence", "arousal")


@dataclass(frozen=True, kw_only=True)
class Control:
    """What is done to a data set."""

    flip_share: float = 0.0
    """Share of the labels of train and holdout that are replaced by another class, drawn uniformly."""
    shuffle_va: bool = False
    """Deal the training rows' points in the plane out anew: neighbours then mean nothing."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.flip_share < 1:
            raise SettingError(f"a noise level must be in [0, 1), got {self.flip_share:g}")

    @property
    def name(self) -> str:
        """Of the version."""
        parts = [f"symmetric-{self.flip_share:g}"] if self.flip_share else []
        return "-".join([*parts, *(["shuffled-va"] if self.shuffle_va else []), f"seed-{self.seed}"])


def controlled(dataset: Dataset, control: Control) -> Dataset:
    """That version of a data set; written unless it is there. With nothing to do, the data set itself.

    Raises:
        SettingError: for a data set of which labels were flipped already, or a version of that name that is another.
    """
    if not control.flip_share and not control.shuffle_va:
        return dataset
    info = dataset.info
    if control.flip_share and info.flip_share:
        raise SettingError(
            f"a noise level must be 0 for a data set with labels flipped already ({info.flip_share:.1%}), "
            f"got {control.flip_share:g}"
        )
    uri = version_uri(dataset, control.name)
    if not storage.exists(storage.join(uri, DATASET)):
        return new_version(dataset, control.name, _change(dataset, control))
    version = Dataset.open(uri)
    if version.info.parent != info.content_hash:
        raise SettingError(
            f"{uri} must be a version of {dataset.uri}, got one of other contents ({version.info.parent})"
        )
    return version


def _change(dataset: Dataset, control: Control) -> Change:
    info, lines, drawn = dataset.info, [], {}
    if control.flip_share:
        rows = info.num_train + info.splits["holdout"].rows
        given_N = dataset.columns(["label"], rows=rows)["label"].to_numpy()
        drawn["label"] = symmetric(given_N, control.flip_share, len(info.class_names), control.seed)
        lines.append(f"{control.flip_share:.0%} of the labels flipped on purpose")
    if control.shuffle_va:
        order_m = np.random.default_rng(control.seed).permutation(info.num_train)
        points = dataset.columns(VA, rows=info.num_train)
        drawn |= {
            name: points[name].combine_chunks().take(pa.array(order_m)).to_numpy(zero_copy_only=False) for name in VA
        }
        lines.append("valence-arousal shuffled")

    def columns(block: pa.Table) -> Mapping[str, pa.Array]:
        first, changed = block["id"][0].as_py(), {}
        if "label" in drawn:
            given_n = block["label"].to_numpy()
            label_n = _overlaid(given_n, drawn["label"][first : first + len(block)])
            changed |= {"label": label_n, "original_label": given_n, "flipped": label_n != given_n}
        for name in drawn.keys() & VA:
            there_n = block[name].to_numpy(zero_copy_only=False)
            changed[name] = _overlaid(there_n, drawn[name][first : first + len(block)])
        return {name: pa.array(values) for name, values in changed.items()}

    source = {"flip_share": control.flip_share, "shuffled_va": control.shuffle_va, "control_seed": control.seed}
    return Change(line=", ".join(lines), columns=columns, source=source)


def _overlaid(values_n: NDArray, first_m: NDArray) -> NDArray:
    """[n] the values, of which the first m are others."""
    return np.concatenate([first_m.astype(values_n.dtype), values_n[len(first_m) :]])
