"""The settings of a run: frozen, self-checking, documented under each field (the text is the --help of the jobs)."""

import dataclasses
import json
from dataclasses import dataclass, field

from ldlva_dist.config.data import DataConfig
from ldlva_dist.config.execution import PlacementConfig, SweepConfig, TrainingConfig
from ldlva_dist.config.neighbors import BankConfig, IndexConfig, NeighborConfig, UncertaintyConfig
from ldlva_dist.config.network import LossConfig, ModelConfig, OptimConfig, PosteriorConfig, RobustConfig
from ldlva_dist.config.saved import build_settings, parse_json
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.values.settings import check_name, check_settings, require

__all__ = [
    "BankConfig",
    "DataConfig",
    "IndexConfig",
    "LossConfig",
    "ModelConfig",
    "NeighborConfig",
    "OptimConfig",
    "PlacementConfig",
    "PosteriorConfig",
    "RobustConfig",
    "RunConfig",
    "SweepConfig",
    "TrainingConfig",
    "UncertaintyConfig",
    "from_json",
    "read_back",
    "to_json",
]

MOBILEFACENET_PIXELS = 112


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything one run is made of."""

    name: str = "run"
    """The run's folder under storage_path; the same name and settings resume where the run stopped."""
    storage_path: str = "runs"
    """Local folder or s3:// prefix that all nodes can write."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    robust: RobustConfig = field(default_factory=RobustConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    neighbors: NeighborConfig = field(default_factory=NeighborConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    uncertainty: UncertaintyConfig = field(default_factory=UncertaintyConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    def __post_init__(self) -> None:
        check_settings(self)
        check_name("name", self.name)
        workers, batch = self.placement.max_workers, self.data.batch_size
        micro = workers * self.training.gradient_accumulation_steps
        require(
            batch >= micro,
            "data.batch_size must be >= placement.num_workers x training.gradient_accumulation_steps "
            f"({micro}), got {batch}",
        )
        require(
            self.model.name != "mobilefacenet" or self.data.image_size == MOBILEFACENET_PIXELS,
            f"data.image_size must be {MOBILEFACENET_PIXELS} for model.name=mobilefacenet, got {self.data.image_size}",
        )
        if self.data.fold is not None:
            require(
                self.bank.warm_start != "labels" and self.index.space == "va",
                "bank.warm_start must not be labels, and index.space must be va, for data.fold, whose rows have "
                f"neither a label nor features for the run, got {self.bank.warm_start} and {self.index.space}",
            )
        if self.bank.place == "workers":
            require(
                self.index.space == "va",
                "bank.place must be actors for index.space=feature, whose index asks them for the features, "
                "got workers",
            )
            require(
                self.neighbors.source == "bank",
                "bank.place must be actors for neighbors.source=exact, which reads nothing that workers would be near "
                "to, got workers",
            )
        require(
            self.loss.recipe != "posterior" or self.neighbors.source == "bank",
            "neighbors.source must be bank for loss.recipe=posterior, which reads each sample's own outputs, got exact",
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

    def check_search(self) -> None:
        """SettingError for settings that one run can have, and a sweep around it cannot."""
        placement, sweep, training = self.placement, self.sweep, self.training
        require(
            not placement.is_elastic,
            "placement.num_workers must be one number for a sweep, whose trials share the cluster, "
            f"got {placement.min_workers} {placement.max_workers}",
        )
        require(
            sweep.scheduler == "none" or sweep.grace_epochs <= training.epochs,
            f"sweep.grace_epochs must be <= training.epochs ({training.epochs:g}), got {sweep.grace_epochs:g}",
        )
        require(
            training.seed < 2**32,
            f"training.seed must be < 2^32 for a sweep, which draws by it, got {training.seed}",
        )

    @property
    def uses_neighbors(self) -> bool:
        """Whether the run needs the neighbour graph, the bank and the uncertainty table."""
        return self.loss.recipe in ("official", "paper", "posterior")

    @property
    def reads_own_outputs(self) -> bool:
        """Whether a step reads what the network said of its own samples before; the bank keeps it."""
        return self.loss.recipe in ("elr", "posterior")

    @property
    def learns_noise(self) -> bool:
        """Whether the table holds what the recipe says of each label's noise, in the place of uncertainties."""
        return self.loss.recipe == "sop"

    @property
    def uses_table(self) -> bool:
        """Whether something of each sample is learnt beside the network."""
        return self.uses_neighbors or self.learns_noise

    @property
    def uses_bank(self) -> bool:
        """Whether the run has a bank."""
        return self.uses_neighbors or self.reads_own_outputs

    @property
    def bank_neighbors(self) -> int:
        """Neighbours of each sample whose ids the bank holds."""
        return self.neighbors.num_neighbors if self.uses_neighbors else 0

    @property
    def keeps_features(self) -> bool:
        """Whether the bank holds features, which the calibration network and the index of the features read."""
        calibrated = self.loss.recipe != "posterior" or self.index.space == "feature"
        return self.uses_neighbors and calibrated and not self.reads_images

    @property
    def reads_images(self) -> bool:
        """Whether the neighbours' images are read and forwarded in every step."""
        return self.uses_neighbors and self.neighbors.source == "exact"

    @property
    def uri(self) -> str:
        """Folder of the run."""
        return f"{self.storage_path.rstrip('/')}/{self.name}"

    @property
    def bank_stays(self) -> bool:
        """Whether the bank's rows are in the memory of the workers' devices, which outputs need not leave."""
        return self.uses_bank and self.bank.place == "workers"

    @property
    def bank_shards(self) -> int:
        """Bank actors that the run needs."""
        return self.bank.num_shards if self.uses_bank and not self.bank_stays else 0

    @property
    def index_shards(self) -> int:
        """Index actors that the run needs."""
        return self.index.num_shards if self.uses_neighbors and self.index.space == "feature" else 0


def to_json(config: RunConfig) -> str:
    """The resolved settings as JSON; :func:`from_json` reads it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: bytes | str) -> RunConfig:
    """Read settings written by :func:`to_json`, of earlier versions too: what they do not name has its default.

    Only ``data.resize`` is reference there, the one that those versions had.

    A name that is not known, or a value that breaks a rule, is a SettingError.
    """
    values = parse_json(text)
    if isinstance(values, dict) and isinstance(data := values.get("data", {}), dict):
        values["data"] = {"resize": "reference", **data}
    return build_settings(RunConfig, values)


def read_back(text: bytes, uri: str) -> RunConfig:
    """Read settings that this program wrote into a file; DataError, with the file's name, if it is damaged."""
    try:
        return from_json(text)
    except SettingError as error:
        raise DataError(f"{uri} is damaged: {error}") from error
