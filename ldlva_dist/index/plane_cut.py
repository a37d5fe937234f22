"""The plane cut into boxes with about equally many samples each, and the box of a data set's samples.

A median k-d cut: each cut halves the longer side of its samples. All copies of a point fall into one box, so boxes of
points that many samples share are of unequal size, or empty. N = samples, S = boxes, m = samples in a box.
"""

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.exact_search import check_va

BOX_READ_ROWS = 1 << 20

Box = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Lowest corner [2], which belongs to the box, and highest corner [2], which does not."""
_INF = np.full(2, np.inf, dtype=np.float32)
EVERYWHERE: Box = -_INF, _INF
NOWHERE: Box = _INF, _INF


def cut_plane(points_N2: NDArray[np.float32], num_boxes: int) -> list[Box]:
    """S boxes that together are the whole plane."""
    return _cut(points_N2, num_boxes, EVERYWHERE)


def cut_dataset(dataset: Dataset, num_boxes: int) -> list[Box]:
    """S boxes for the training samples of a data set; SettingError where one has no valence-arousal."""
    points_N2 = dataset.va(0, dataset.info.num_train)
    check_va(points_N2)
    return cut_plane(points_N2, num_boxes)


def load_box(dataset: Dataset, box: Box) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids [m] and points [m, 2] of a data set's training samples in a box; the manifest is read piece by piece."""
    num_samples = dataset.info.num_train
    ids, points = [np.empty(0, dtype=np.int64)], [np.empty((0, 2), dtype=np.float32)]
    for first in range(0, num_samples, BOX_READ_ROWS):
        points_n2 = dataset.va(first, min(BOX_READ_ROWS, num_samples - first))
        inside = np.flatnonzero(in_box(points_n2, box))
        ids.append(first + inside)
        points.append(points_n2[inside])
    return np.concatenate(ids), np.concatenate(points)


def in_box(points_n2: NDArray[np.float32], box: Box) -> NDArray[np.bool_]:
    """[n] which points lie in the box."""
    low_2, high_2 = box
    valence_n, arousal_n = points_n2[:, 0], points_n2[:, 1]
    along_n = (valence_n >= low_2[0]) & (valence_n < high_2[0])
    return along_n & (arousal_n >= low_2[1]) & (arousal_n < high_2[1])


def _cut(points_n2: NDArray[np.float32], num_boxes: int, box: Box) -> list[Box]:
    if num_boxes == 1 or not len(points_n2):
        return [box] + [NOWHERE] * (num_boxes - 1)
    num_low = num_boxes // 2
    axis, threshold = _threshold(points_n2, num_low / num_boxes)
    is_low_n = points_n2[:, axis] < threshold
    (low_2, high_2), middle_2 = box, np.full(2, threshold, dtype=np.float32)
    this_axis = np.arange(2) == axis
    lower = low_2, np.where(this_axis, middle_2, high_2)
    upper = np.where(this_axis, middle_2, low_2), high_2
    return _cut(points_n2[is_low_n], num_low, lower) + _cut(points_n2[~is_low_n], num_boxes - num_low, upper)


def _threshold(points_n2: NDArray[np.float32], share: float) -> tuple[int, np.float32]:
    """The axis on which the points lie farther apart, and the value below which about ``share`` of them lie.

    The lowest value would leave nothing below it: then the next higher one, if there is one.
    """
    axis = int(np.ptp(points_n2, axis=0).argmax())
    along_n = points_n2[:, axis]
    threshold = np.partition(along_n, int(share * len(along_n)))[int(share * len(along_n))]
    higher = along_n[along_n > threshold]
    return axis, higher.min() if threshold == along_n.min() and len(higher) else threshold
