"""Where a run lies."""

from ldlva_dist.config import RunConfig


def run_uri(config: RunConfig) -> str:
    """The folder of a run."""
    return f"{config.storage_path.rstrip('/')}/{config.name}"
