"""What a user decides about packing."""

from dataclasses import dataclass
from typing import Any, Literal

from ldlva_dist.packing.classes.class_index import ClassIndex, check_class_names
from ldlva_dist.packing.noise import parse_noise, shown_noise
from ldlva_dist.packing.sources.rows import PERSONS

BadData = Literal["quarantine", "skip", "fail"]


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """How rows become a data set."""

    name: str
    class_names: tuple[str, ...]
    numbers: dict[int, str] | None = None
    """Meaning of labels that are numbers; None counts the class names from 0, an empty one says nothing."""
    size: int | None = None
    """Side in pixels that images are resized to; None packs them as they are."""
    holdout: float = 0.1
    """Share of the training part that is cut off for model selection, where the source brings no such part itself."""
    seed: int = 0
    standardize_va: bool = False
    shuffle_va: int | None = None
    """Seed that permutes valence-arousal among the training samples: a control experiment."""
    noise: str | None = None
    """Wrong labels to train on, such as ``symmetric:SHARE`` or ``list:FILE``; see ``noise.parse_noise``."""
    on_bad_data: BadData = "quarantine"
    """A bad row is listed in rejected.parquet, only counted, or ends the packing."""
    holdout_by: str | None = None
    """Extra column, such as a person: all rows of one value go to one part."""
    drop_copies: bool = False
    """Leave out rows whose image stands in the test part too, or, in the training part, in the source's own holdout."""
    max_rejected: float = 0.01
    """Share of the labelled rows of each part that may be bad."""

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        if self.noise is not None:
            parse_noise(self.noise)

    @property
    def group_columns(self) -> tuple[str, ...]:
        """Columns of the user's that may say what group a row is of: the first that the data have does."""
        return PERSONS if self.holdout_by is None else (self.holdout_by,)

    @property
    def classes(self) -> ClassIndex:
        """What finds the class of a label."""
        return ClassIndex(self.class_names, self.numbers)

    def describe(self) -> dict[str, Any]:
        """For ``dataset.json``."""
        facts: dict[str, Any] = {
            "size": self.size,
            "holdout": self.holdout,
            "seed": self.seed,
            "shuffle_va": self.shuffle_va,
        }
        if self.drop_copies:
            facts["drop_copies"] = True
        if self.holdout_by is not None:
            facts["holdout_by"] = self.holdout_by
        if self.noise is None:
            return facts
        return {**facts, "noise": shown_noise(self.noise)}
