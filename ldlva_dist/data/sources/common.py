"""What every kind of source is told on the command line."""

from dataclasses import dataclass
from typing import Literal

from ldlva_dist.data import storage
from ldlva_dist.data.rows import REFERENCE_CLASSES
from ldlva_dist.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every kind of source is packed with."""

    output: str
    """Folder or s3:// prefix to write; must not exist."""
    name: str | None = None
    """Name of the data set; the last part of --output if not given."""
    classes: tuple[str, ...] = REFERENCE_CLASSES
    """Class names in index order. Labels may be these names, other spellings of them (angry, sadness), or indices."""
    max_rejected: float = 0.01
    """Share of the labelled rows of each part (train, validation, test) that may be rejected."""
    on_bad_data: Literal["quarantine", "skip", "fail"] = "quarantine"
    """List bad rows in rejected.parquet, only count them, or end at the first one."""
    holdout: float = 0.1
    """Share of the training rows cut off for model selection, by a hash of the key."""
    size: int | None = None
    """Resize images to this many pixels square; as they are if not given."""
    standardize_va: bool = False
    """Measure distances on valence-arousal of mean 0 and standard deviation 1 over the training rows."""
    shuffle_va: int | None = None
    """Control experiment: permute valence-arousal among the training rows by this seed."""
    noise: str | None = None
    """Train on wrong labels, the given ones kept beside them: symmetric:SHARE, or list:FILE of lines "name label"."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise SettingError(f"--holdout must be in [0, 1), got {self.holdout}")
        if not 0 <= self.max_rejected <= 1:
            raise SettingError(f"--max-rejected must be in [0, 1], got {self.max_rejected}")
        if self.size is not None and self.size < 16:
            raise SettingError(f"--size must be >= 16 pixels, got {self.size}")
        if self.seed < 0 or (self.shuffle_va or 0) < 0:
            raise SettingError(f"--seed and --shuffle-va must be >= 0, got {self.seed} and {self.shuffle_va}")

    def notes(self) -> list[str]:
        """Sentences on what lies beside the rows and is passed over."""
        return []


def check_there(setting: str, uri: str) -> None:
    """SettingError unless a file or folder is there."""
    if not storage.exists(uri):
        raise SettingError(f"{setting} must name what exists, got {uri!r}")
