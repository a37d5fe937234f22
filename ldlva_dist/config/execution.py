"""Settings of the loop, its place on a cluster, and a search over runs."""

from dataclasses import dataclass
from typing import Literal

from ldlva_dist.config.checks import at_least, require


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
    checkpoint_every_minutes: float | None = None
    """Saves by the clock besides; each such checkpoint adds a line to the metrics."""
    num_to_keep: int = 2
    """Newest checkpoints kept; the best by holdout accuracy is kept besides."""
    stop_grace_s: float = 60.0
    """Longest wait for the checkpoint that a run writes when it is asked to stop (Ctrl-C, SIGTERM)."""
    timeout_s: float = 600.0
    """Longest wait of a worker for the others, or for its files of a checkpoint to be uploaded."""
    log_every_steps: int = 20
    tracker: Literal["tensorboard", "mlflow", "wandb", "none"] = "tensorboard"
    """Where numbers are shown besides RUN/metrics.jsonl; mlflow and wandb are extras, and find their server and
    credentials by their own variables (MLFLOW_TRACKING_URI, WANDB_API_KEY), which the workers must have."""
    log_ids: bool = False
    """Keep the ids of every step in RUN/ids: 16 bytes a sample and epoch, before compression."""

    def __post_init__(self) -> None:
        require(self.epochs > 0, f"training.epochs must be > 0, got {self.epochs}")
        require(
            self.evaluate_every_epochs > 0,
            f"training.evaluate_every_epochs must be > 0, got {self.evaluate_every_epochs}",
        )
        for name in ("checkpoint_every_minutes", "stop_grace_s", "timeout_s"):
            value = getattr(self, name)
            require(value is None or value > 0, f"training.{name} must be > 0, got {value}")
        at_least(
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

    num_workers: int | tuple[int, int] = 1
    """Training workers; with use_gpu each has one GPU. MIN MAX: as many as the cluster holds, fewer when a node is lost
    and more when one comes; the global batches stay the same."""
    elastic_resize_monitor_interval_s: float = 60.0
    """With MIN MAX: how often a run looks whether the cluster holds more workers."""
    wait_for_workers_s: float = 1800.0
    """Longest wait of a run for nodes that hold its workers, or MIN of them, at its start or after some were lost."""
    use_gpu: bool = False
    cpus_per_worker: float = 1.0
    """CPUs reserved for each training worker; torch uses as many threads."""
    data_cpus_per_worker: float = 1.0
    """CPUs each worker's Ray Data pipeline may use at once."""
    cpus_per_shard: float = 0.0
    """CPUs reserved for each bank actor."""
    cpus_per_index: float = 1.0
    """CPUs reserved for each index actor of index.space=feature."""
    gpus_per_index: float = 0.0
    """GPUs reserved for each of them; a share lets several use one."""
    max_failures: int = 3
    """Restarts from the last checkpoint before the run gives up; a node that is lost without notice costs one."""

    def __post_init__(self) -> None:
        require(
            1 <= self.min_workers <= self.max_workers,
            "placement.num_workers must be N >= 1, or MIN MAX with 1 <= MIN <= MAX, "
            f"got {' '.join(map(str, self._bounds))}",
        )
        for name in ("elastic_resize_monitor_interval_s", "wait_for_workers_s"):
            require(getattr(self, name) > 0, f"placement.{name} must be > 0, got {getattr(self, name)}")
        at_least("placement", 0, cpus_per_shard=self.cpus_per_shard, max_failures=self.max_failures)
        at_least("placement", 0, cpus_per_index=self.cpus_per_index, gpus_per_index=self.gpus_per_index)
        require(self.cpus_per_worker > 0, f"placement.cpus_per_worker must be > 0, got {self.cpus_per_worker}")
        require(
            self.data_cpus_per_worker > 0,
            f"placement.data_cpus_per_worker must be > 0, got {self.data_cpus_per_worker}",
        )

    @property
    def min_workers(self) -> int:
        """The fewest workers a run goes on with."""
        return self._bounds[0]

    @property
    def max_workers(self) -> int:
        """The most workers a run has."""
        return self._bounds[-1]

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while a run goes on."""
        return self.min_workers < self.max_workers

    @property
    def _bounds(self) -> tuple[int, ...]:
        return (self.num_workers,) if isinstance(self.num_workers, int) else self.num_workers


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
        at_least("sweep", 1, num_samples=self.num_samples, max_concurrent_trials=self.max_concurrent_trials)
        at_least("sweep", 2, reduction_factor=self.reduction_factor)
        require(len(self.num_neighbors) > 0, "sweep.num_neighbors must name at least one K, got none")
        for name in ("gamma", "lr", "uncertainty_lr", "kernel_width"):
            low, high = getattr(self, name)
            require(0 < low <= high, f"sweep.{name} must be LOW HIGH with 0 < LOW <= HIGH, got {low} {high}")
