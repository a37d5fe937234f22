"""Settings of what is read."""

from dataclasses import dataclass
from typing import Literal

from ldlva_dist.config.checks import at_least, share


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and in which order."""

    dataset: str = ""
    """Folder or s3:// prefix that jobs/make_shards.py wrote, or a version in it (DATASET/versions/NAME)."""
    batch_size: int = 32
    """Samples in one optimiser step, over all workers."""
    chunk_rows: int = 128
    """Rows of one window of a lane, fetched by two ranged reads or fewer: larger reads less often and mixes less."""
    balance: float = 0.0
    """Rows of a class in an epoch grow with its count to the power of 1 - balance: 0 as packed, 1 all classes alike."""
    on_bad_data: Literal["fail", "skip", "quarantine"] = "fail"
    """A damaged or undecodable row stops the run, or another row of its window takes its place; quarantine also lists
    it in RUN/quarantine.parquet."""
    max_bad_share: float = 0.001
    """skip, quarantine: more bad rows than this share of the training split stop the run."""
    image_size: int = 112
    """Side of the square the images are resized to, in pixels."""
    channels: Literal[1, 3] = 3
    """1 decodes to grey, 3 to RGB."""
    flip: bool = True
    """Mirror every second image."""
    pad: int = 4
    """Pixels of zero padding before the random crop; 0 is off."""
    erase_probability: float = 0.5
    """Share of images with a random rectangle of noise."""

    def __post_init__(self) -> None:
        at_least("data", 1, batch_size=self.batch_size, chunk_rows=self.chunk_rows)
        at_least("data", 16, image_size=self.image_size)
        at_least("data", 0, pad=self.pad)
        share("data", erase_probability=self.erase_probability, balance=self.balance, max_bad_share=self.max_bad_share)
