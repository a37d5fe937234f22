"""The settings of a run: frozen, self-checking, documented under each field (the text is the --help of the jobs)."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from ldlva_dist.config.checks import require
from ldlva_dist.config.data import DataConfig
from ldlva_dist.config.execution import PlacementConfig, SweepConfig, TrainingConfig
from ldlva_dist.config.neighbors import BankConfig, IndexConfig, NeighborConfig, UncertaintyConfig
from ldlva_dist.config.network import LossConfig, ModelConfig, OptimConfig

__all__ = [
    "BankConfig",
    "DataConfig",
    "IndexConfig",
    "LossConfig",
    "ModelConfig",
    "NeighborConfig",
    "OptimConfig",
    "PlacementConfig",
    "RunConfig",
    "SweepConfig",
    "TrainingConfig",
    "UncertaintyConfig",
    "from_json",
    "to_json",
]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything one run is made of."""

    name: str = "run"
    """The run's folder under storage_path; the same name and settings go on where the run stopped."""
    storage_path: str = "runs"
    """Local folder or s3:// prefix that all nodes can write."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    neighbors: NeighborConfig = field(default_factory=NeighborConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    uncertainty: UncertaintyConfig = field(default_factory=UncertaintyConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    def __post_init__(self) -> None:
        require(
            bool(self.name) and not set(self.name) & set("/\\ ") and not self.name.startswith("."),
            f"name must be a plain folder name, got {self.name!r}",
        )
        workers, batch = self.placement.max_workers, self.data.batch_size
        micro = workers * self.training.gradient_accumulation_steps
        require(
            batch >= micro,
            "data.batch_size must be >= placement.num_workers x training.gradient_accumulation_steps "
            f"({micro}), got {batch}",
        )
        if self.index.space == "feature":
            require(
                self.neighbors.source == "bank",
                "neighbors.source must be bank for index.space=feature, whose features the bank keeps, got exact",
            )
            require(
                self.bank.on_loss == "rollback",
                "bank.on_loss must be rollback for index.space=feature, as a lost shard loses its graph, got continue",
            )

    @property
    def uses_neighbors(self) -> bool:
        """Whether the run needs the neighbour graph, the bank and the uncertainty table."""
        return self.loss.recipe != "ce"

    @property
    def index_shards(self) -> int:
        """Index actors that the run needs."""
        return self.index.num_shards if self.uses_neighbors and self.index.space == "feature" else 0


def to_json(config: RunConfig) -> str:
    """The resolved settings as JSON; :func:`from_json` reads it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> RunConfig:
    """Read settings written by :func:`to_json`; an unknown or missing name is a SettingError."""
    return _build(RunConfig, json.loads(text), "config")


def _build(cls: Any, values: dict[str, Any], path: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(known))
    require(not unknown, f"{path} has settings this version does not know: {', '.join(unknown)}")
    built = {}
    for name, value in values.items():
        kind = known[name].default_factory
        if dataclasses.is_dataclass(kind):
            built[name] = _build(kind, value, f"{path}.{name}")
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
    return cls(**built)
