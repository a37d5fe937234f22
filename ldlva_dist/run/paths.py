"""Paths of a run that mean the same on every node."""

from dataclasses import replace

from ldlva_dist.config import RunConfig
from ldlva_dist.errors import SettingError


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same settings with paths that mean the same on every node."""
    if not config.data.dataset:
        raise SettingError("data.dataset must name a data set that jobs/make_shards.py wrote, got nothing")
    from ldlva_dist import storage  # half a second of imports, which a wrong command line need not wait for

    start = config.training.start_from
    return replace(
        config,
        storage_path=storage.absolute(config.storage_path),
        data=replace(config.data, dataset=storage.absolute(config.data.dataset)),
        training=replace(config.training, start_from=start and storage.absolute(start)),
    )
