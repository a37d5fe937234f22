"""Versions for controlled experiments: labels flipped, or valence-arousal shuffled, on purpose; no image is touched.

N = rows of the train and holdout splits, which have the first ids; n = rows of one row group.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DATASET
from ldlva_dist.dataset.versions import Change, new_version, version_uri
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.noise import (
    ConfusedClasses,
    Instance,
    Noise,
    NoiseList,
    Symmetric,
    Votes,
    one_vote,
    parse_noise,
    read_confusion,
    shown_noise,
    symmetric,
    weighted,
)

VA = ("valence", "arousal")


@dataclass(frozen=True, kw_only=True)
class Control:
    """What is done to a data set."""

    noise: str | None = None
    """Labels of train and holdout that are replaced, as ``--noise`` says it; None: none."""
    shuffle_va: bool = False
    """Deal the training rows' points in the plane out anew: neighbours then mean nothing."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.noise is not None:
            parse_noise(self.noise)

    @property
    def name(self) -> str:
        """Of the version."""
        parts = [] if self.noise is None else ["-".join(self.noise.split(":")[:2])]
        if self.noise and self.noise.count(":") > 1:  # a file, whose folders are not told
            parts += [hashlib.blake2b(storage.read_bytes(self.noise.split(":", 2)[2]), digest_size=4).hexdigest()]
        return "-".join([*parts, *(["shuffled-va"] if self.shuffle_va else []), f"seed-{self.seed}"])


def controlled(dataset: Dataset, control: Control) -> Dataset:
    """That version of a data set; written unless it is there. With nothing to do, the data set itself.

    Raises:
        SettingError: for a data set of which labels were flipped already, or without the votes that the noise needs, or
            a version of that name that is another.
    """
    if control.noise is None and not control.shuffle_va:
        return dataset
    info = dataset.info
    if control.noise is not None and info.flip_share:
        raise SettingError(
            f"a noise level must be 0 for a data set with labels flipped already ({info.flip_share:.1%}), "
            f"got {control.noise}"
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
    if control.noise is not None:
        drawn["label"] = _noisy_labels(dataset, parse_noise(control.noise), control.seed)
        lines.append(f"labels flipped on purpose ({shown_noise(control.noise)})")
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

    source = {
        "noise": control.noise and shown_noise(control.noise),
        "shuffled_va": control.shuffle_va,
        "control_seed": control.seed,
    }
    return Change(line=", ".join(lines), columns=columns, source=source)


def _noisy_labels(dataset: Dataset, noise: Noise, seed: int) -> NDArray[np.int16]:
    """[N] labels of train and holdout."""
    info = dataset.info
    rows = info.num_train + info.splits["holdout"].rows
    given_N = dataset.columns(["label"], rows=rows)["label"].to_numpy()
    match noise:
        case Symmetric(share):
            return symmetric(given_N, share, len(info.class_names), seed)
        case ConfusedClasses(share, uri):
            return weighted(given_N, read_confusion(uri, info.class_names)[given_N], share, seed)
        case Instance(share):
            return weighted(given_N, _distributions(dataset, rows, ("votes", "true_distribution")), share, seed)
        case Votes():
            return one_vote(given_N, _distributions(dataset, rows, ("votes",)), seed)
        case NoiseList(uri):
            raise SettingError(f"a noise list must be given when a data set is packed (--noise list:FILE), got {uri}")


def _distributions(dataset: Dataset, rows: int, columns: Sequence[str]) -> NDArray[np.float32]:
    """[rows, C] the first of the columns that the data set has; rows sum to 1, or to 0 where nothing is known."""
    name = next((name for name in columns if name in dataset.column_names()), None)
    if name is None:
        raise SettingError(
            f"this noise needs a data set with {' or '.join(columns)}, got {dataset.info.name!r} without"
        )
    values = dataset.columns([name], rows=rows)[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    weights_nC = np.nan_to_num(values.astype(np.float32)).reshape(rows, -1)
    return weights_nC / np.maximum(weights_nC.sum(axis=1, keepdims=True), 1e-9)


def _overlaid(values_n: NDArray, first_m: NDArray) -> NDArray:
    """[n] the values, of which the first m are others."""
    return np.concatenate([first_m.astype(values_n.dtype), values_n[len(first_m) :]])
