"""Settings of what is read."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ldlva_dist.values.settings import BatchSize, Range, Resize, Share, check_settings, require


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and in which order."""

    dataset: str = ""
    """Folder or s3:// prefix that jobs/make_shards.py wrote, or a version in it (DATASET/versions/NAME)."""
    batch_size: BatchSize = 32
    """Samples in one optimiser step, over all workers."""
    chunk_rows: Annotated[int, Range(ge=1, le=2**20)] = 128
    """Rows of one window of a lane, fetched by two ranged reads or fewer: larger reads less often and mixes less."""
    max_lanes: Annotated[int, Range(ge=1, le=4096)] = 64
    """Most lanes that the data set is read in; more than 64 workers need as many, and do equal work where the lanes
    (the largest divisor of batch_size up to this) divide by their number."""
    balance: Share = 0.0
    """Rows of a class in an epoch grow with its count to the power of 1 - balance: 0 as packed, 1 all classes alike."""
    fold: tuple[Annotated[int, Range(ge=0)], Annotated[int, Range(ge=2)]] | None = None
    """k K: leave out the training rows k, k + K, k + 2 K, ... (0 <= k < K), to be judged by who did not see them."""
    on_bad_data: Literal["fail", "skip", "quarantine"] = "fail"
    """A damaged or undecodable row stops the run, or another row of its window takes its place; quarantine also lists
    it in RUN/quarantine.parquet."""
    max_bad_share: Share = 0.001
    """skip, quarantine: more bad rows than this share of the training split stop the run."""
    image_size: Annotated[int, Range(ge=16, le=4096)] = 112
    """Side of the square the images are resized to, in pixels."""
    resize: Resize = "antialias"
    """antialias averages the pixels that become one; reference takes two of them a side, as the reference
    implementation does, for runs that repeat its results."""
    channels: Literal[1, 3] = 3
    """1 decodes to grey, 3 to RGB."""
    flip: bool = True
    """Mirror every second image."""
    pad: Annotated[int, Range(ge=0)] = 4
    """Pixels of zero padding before the random crop; 0 is off."""
    erase_probability: Share = 0.5
    """Share of images with a random rectangle of noise."""

    def __post_init__(self) -> None:
        check_settings(self, "data")
        if self.fold is not None:
            require(
                self.fold[0] < self.fold[1],
                f"data.fold must be two numbers k < K, got {self.fold[0]} {self.fold[1]}",
            )
        require(self.pad <= self.image_size, f"data.pad must be <= data.image_size ({self.image_size}), got {self.pad}")
