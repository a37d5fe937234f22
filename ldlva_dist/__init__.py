"""Uncertainty-aware label distribution learning with neighbours in valence-arousal space, distributed.

``open_dataset`` and ``open_run`` read what the jobs wrote, without a cluster. Nothing is
imported before they are called.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldlva_dist.analysis.opened import OpenedDataset, OpenedRun


def open_dataset(uri: str) -> "OpenedDataset":
    """A packed data set, or a version of one: its rows as numpy, pandas or torch, and its images.

    Args:
        uri: Folder or s3:// prefix.

    Raises:
        DataError: for what is no data set.
    """
    from ldlva_dist.analysis.opened import OpenedDataset
    from ldlva_dist.dataset.dataset import Dataset

    return OpenedDataset(Dataset.open(uri))


def open_run(uri: str, dataset: str | None = None) -> "OpenedRun":
    """A finished run with neighbours: its table, predictions and suspects as numpy, pandas or torch.

    Args:
        uri: Folder or s3:// prefix of a run, or of one checkpoint.
        dataset: Another place of the data set the run was trained on.

    Raises:
        SettingError: for a folder without a finished checkpoint, or a run without neighbours.
        DataError: for a data set that is not there.
    """
    from ldlva_dist.analysis.opened import OpenedRun
    from ldlva_dist.analysis.trained_run import find

    return OpenedRun(find(uri, dataset))
