"""The settings of a run: frozen, self-checking, documented under each field (the text is the --help of the jobs)."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from ldlva_dist.errors import SettingError


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise SettingError(sentence)


def _at_least(section: str, minimum: float, **values: float | None) -> None:
    for name, value in values.items():
        _require(value is None or value >= minimum, f"{section}.{name} must be >= {minimum:g}, got {value}")


def _share(section: str, **values: float) -> None:
    for name, value in values.items():
        _require(0 <= value <= 1, f"{section}.{name} must be in [0, 1], got {value}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and in which order."""

    dataset: str = ""
    """Folder or s3:// prefix that jobs/make_shards.py wrote, or a version in it (DATASET/versions/NAME)."""
    batch_size: int = 32
    """Samples in one optimiser step, over all workers."""
    chunk_rows: int = 128
    """Rows that one lane fetches at a time: larger reads less often and mixes less."""
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
        _at_least("data", 1, batch_size=self.batch_size, chunk_rows=self.chunk_rows)
        _at_least("data", 16, image_size=self.image_size)
        _at_least("data", 0, pad=self.pad)
        _share("data", erase_probability=self.erase_probability, balance=self.balance, max_bad_share=self.max_bad_share)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: str = "resnet18"
    """resnet10, resnet18, resnet34, resnet50, or timm:NAME where timm is installed."""
    width: int = 64
    """Channels of the first stage of a built-in ResNet."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """small: for faces of about 48 pixels."""
    pretrained: str | None = None
    """A .pth or .safetensors file of backbone weights, local or s3://."""
    calibration_hidden: tuple[int, int] = (512, 256)
    """Widths of the calibration network's two hidden layers."""
    freeze_batchnorm: bool = False
    """Use the stored statistics of every BatchNorm and leave them as they are."""

    def __post_init__(self) -> None:
        _at_least("model", 1, width=self.width)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The method (METHOD.md, sections 2 and 3)."""

    recipe: Literal["official", "paper", "ce"] = "official"
    """official: the reference implementation; paper: the paper's equations; ce: plain cross-entropy, the baseline."""
    gamma: float = 0.01
    """Weight of the discriminative loss."""
    kernel_width: float = 0.5
    """delta, the width of the similarity kernel in valence-arousal units."""
    label_smoothing: float = 0.0
    """Share of each given label that is spread over all classes."""
    class_weights: Literal["balanced"] | None = None
    """balanced: each class weighs N / (C x its count) in the cross-entropy."""
    reference_k: int = 8
    """Fixes the divisor of the intra-class term, so that sweeping K does not change it."""
    center_rate: float = 0.5 / 288
    """official: step of the class centres towards their samples."""
    detach_uncertainty: bool = True
    """False lets the discriminative loss move the uncertainty; degenerate, it drives it to 1 (METHOD.md, section 3)."""
    warmup_epochs: float = 0.0
    """Epochs on the given labels alone before neighbours and uncertainty take part."""

    def __post_init__(self) -> None:
        _at_least("loss", 0, gamma=self.gamma, center_rate=self.center_rate, warmup_epochs=self.warmup_epochs)
        _require(self.kernel_width > 0, f"loss.kernel_width must be > 0, got {self.kernel_width}")
        _at_least("loss", 1, reference_k=self.reference_k)
        _share("loss", label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class NeighborConfig:
    """The neighbour service."""

    num_neighbors: int = 8
    """K, neighbours mixed into each target."""
    num_shards: int = 1
    """Actors the bank is cut over, by id range."""
    dtype: Literal["float16", "float32"] = "float16"
    """What the bank stores probabilities and features in."""
    momentum: float = 0.0
    """Weight of the old value when a stored probability is overwritten."""
    timeout_s: float = 120.0
    """Longest wait for an answer of the service."""

    def __post_init__(self) -> None:
        _at_least("neighbors", 1, num_neighbors=self.num_neighbors, num_shards=self.num_shards)
        _require(0 <= self.momentum < 1, f"neighbors.momentum must be in [0, 1), got {self.momentum}")
        _require(self.timeout_s > 0, f"neighbors.timeout_s must be > 0, got {self.timeout_s}")


@dataclass(frozen=True, kw_only=True)
class UncertaintyConfig:
    """The per-sample uncertainty table."""

    initial_logit: float = -0.5
    """Where every sample starts; sigmoid(-0.5) = 0.38 of the target comes from the neighbours."""
    lr: float = 0.3125
    """Step on each sample's own loss; the reference's 10 on a mean over 32."""
    momentum: float = 0.0
    """Momentum of that step; only rows of the batch move."""

    def __post_init__(self) -> None:
        _at_least("uncertainty", 0, lr=self.lr)
        _require(0 <= self.momentum < 1, f"uncertainty.momentum must be in [0, 1), got {self.momentum}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The network's optimiser."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    momentum: float = 0.9
    """Of sgd."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """step: multiplied by decay_factor at decay_epochs; cosine: to zero at the last step."""
    decay_epochs: tuple[float, ...] = ()
    decay_factor: float = 0.1
    warmup_epochs: float = 0.0
    """Linear rise from zero."""
    gradient_clipping: float | None = None
    """Largest norm of the whole gradient; None is off."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, f"optim.lr must be > 0, got {self.lr}")
        _at_least("optim", 0, weight_decay=self.weight_decay, warmup_epochs=self.warmup_epochs)
        _require(
            self.gradient_clipping is None or self.gradient_clipping > 0,
            f"optim.gradient_clipping must be > 0, got {self.gradient_clipping}",
        )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The loop."""

    epochs: float = 60.0
    """Passes over the training split; the run ends at round(epochs x N / batch_size) steps."""
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 by autocast; weights, statistics and the maths of the losses stay fp32."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage; a single worker has nothing to share out and runs as stage 0."""
    gradient_accumulation_steps: int = 1
    """Micro-batches that make up one step on each worker."""
    evaluate_every_epochs: float = 1.0
    """How often the holdout is evaluated; the end of the run always is."""
    checkpoint_every_steps: int | None = None
    """None saves at every evaluation."""
    num_to_keep: int = 2
    """Checkpoints kept."""
    log_every_steps: int = 20
    log_ids: bool = False
    """Keep the ids of every step in RUN/ids: 16 bytes a sample and epoch, before compression."""

    def __post_init__(self) -> None:
        _require(self.epochs > 0, f"training.epochs must be > 0, got {self.epochs}")
        _require(
            self.evaluate_every_epochs > 0,
            f"training.evaluate_every_epochs must be > 0, got {self.evaluate_every_epochs}",
        )
        _at_least(
            "training",
            1,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            checkpoint_every_steps=self.checkpoint_every_steps,
            num_to_keep=self.num_to_keep,
            log_every_steps=self.log_every_steps,
        )


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """How many of what; Ray's own names."""

    num_workers: int = 1
    """Training workers; with use_gpu each has one GPU."""
    use_gpu: bool = False
    cpus_per_worker: float = 1.0
    """CPUs reserved for each training worker; torch uses as many threads."""
    data_cpus_per_worker: float = 1.0
    """CPUs each worker's Ray Data pipeline may use at once."""
    cpus_per_shard: float = 0.0
    """CPUs reserved for each bank actor."""
    max_failures: int = 3
    """Restarts from the last checkpoint before the run gives up."""

    def __post_init__(self) -> None:
        _at_least("placement", 1, num_workers=self.num_workers)
        _at_least("placement", 0, cpus_per_shard=self.cpus_per_shard, max_failures=self.max_failures)
        _require(self.cpus_per_worker > 0, f"placement.cpus_per_worker must be > 0, got {self.cpus_per_worker}")
        _require(
            self.data_cpus_per_worker > 0,
            f"placement.data_cpus_per_worker must be > 0, got {self.data_cpus_per_worker}",
        )


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The search; each list is sampled from, each pair is a log-uniform range."""

    num_samples: int = 8
    """Trials."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha stops trials that lose."""
    search: Literal["random", "optuna"] = "random"
    num_neighbors: tuple[int, ...] = (4, 8, 16)
    gamma: tuple[float, float] = (1e-3, 3e-2)
    lr: tuple[float, float] = (3e-4, 3e-3)
    uncertainty_lr: tuple[float, float] = (0.1, 1.0)
    kernel_width: tuple[float, float] = (0.25, 1.0)
    grace_epochs: float = 2.0
    """asha: epochs every trial gets before it can be stopped."""
    reduction_factor: int = 2
    """asha: of the trials at a rung, one in so many goes on."""
    max_concurrent_trials: int | None = None
    """None: as many as the cluster holds."""

    def __post_init__(self) -> None:
        _at_least("sweep", 1, num_samples=self.num_samples, max_concurrent_trials=self.max_concurrent_trials)
        _at_least("sweep", 2, reduction_factor=self.reduction_factor)
        _require(len(self.num_neighbors) > 0, "sweep.num_neighbors must name at least one K, got none")
        for name in ("gamma", "lr", "uncertainty_lr", "kernel_width"):
            low, high = getattr(self, name)
            _require(0 < low <= high, f"sweep.{name} must be LOW HIGH with 0 < LOW <= HIGH, got {low} {high}")


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
    neighbors: NeighborConfig = field(default_factory=NeighborConfig)
    uncertainty: UncertaintyConfig = field(default_factory=UncertaintyConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    def __post_init__(self) -> None:
        _require(
            bool(self.name) and not set(self.name) & set("/\\ ") and not self.name.startswith("."),
            f"name must be a plain folder name, got {self.name!r}",
        )
        workers, batch = self.placement.num_workers, self.data.batch_size
        micro = workers * self.training.gradient_accumulation_steps
        _require(
            batch >= micro,
            "data.batch_size must be >= placement.num_workers x training.gradient_accumulation_steps "
            f"({micro}), got {batch}",
        )

    @property
    def uses_neighbors(self) -> bool:
        """Whether the run needs the neighbour graph, the bank and the uncertainty table."""
        return self.loss.recipe != "ce"


def to_json(config: RunConfig) -> str:
    """The resolved settings as JSON; :func:`from_json` reads it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> RunConfig:
    """Read settings written by :func:`to_json`; an unknown or missing name is a SettingError."""
    return _build(RunConfig, json.loads(text), "config")


def _build(cls: Any, values: dict[str, Any], path: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(known))
    _require(not unknown, f"{path} has settings this version does not know: {', '.join(unknown)}")
    built = {}
    for name, value in values.items():
        kind = known[name].default_factory
        if dataclasses.is_dataclass(kind):
            built[name] = _build(kind, value, f"{path}.{name}")
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
    return cls(**built)
