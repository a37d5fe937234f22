"""Settings of the loop, its place on a cluster, and a search over runs."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ldlva_dist.values.settings import (
    Count,
    Epochs,
    NotNegative,
    Positive,
    Range,
    Seconds,
    Seed,
    check_settings,
    require,
)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The loop."""

    epochs: Epochs = 60.0
    """Passes over the training split; the run ends at round(epochs x N / batch_size) steps."""
    start_from: str | None = None
    """Run, or checkpoint of one, to begin with, on this data set or on what it was before rows were added: network,
    centres, uncertainties and bank are taken over, in place of model.pretrained; samples that it did not know begin as
    in a new run, and so do optimiser, schedule and plan."""
    seed: Seed = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 by autocast; weights, statistics and the maths of the losses stay fp32."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage; a single worker has nothing to share out and runs as stage 0."""
    gradient_accumulation_steps: Count = 1
    """Micro-batches that make up one step on each worker."""
    evaluate_every_epochs: Epochs = 1.0
    """How often the holdout is evaluated; the end of the run always is."""
    checkpoint_every_steps: Count | None = None
    """None saves at every evaluation."""
    checkpoint_every_minutes: Positive | None = None
    """Saves by the clock besides; each such checkpoint adds a line to the metrics."""
    num_to_keep: Count = 2
    """Newest checkpoints kept; the best by holdout accuracy is kept besides."""
    stop_grace_s: Seconds = 60.0
    """Longest wait for the checkpoint that a run writes when it is asked to stop (Ctrl-C, SIGTERM)."""
    timeout_s: Seconds = 600.0
    """Longest wait of a worker for the others, for its next batch, or for its files of a checkpoint to be uploaded."""
    log_every_steps: Count = 20
    tracker: Literal["tensorboard", "mlflow", "wandb", "none"] = "tensorboard"
    """Tracker of the numbers besides RUN/metrics.jsonl; mlflow and wandb are extras, and find their server and
    credentials by their own variables (MLFLOW_TRACKING_URI, WANDB_API_KEY), which the workers must have."""
    log_ids: bool = False
    """Keep the ids of every step in RUN/ids: 16 bytes a sample and epoch, before compression."""

    def __post_init__(self) -> None:
        check_settings(self, "training")


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """How many of what; Ray's own names."""

    num_workers: Count | tuple[Count, Count] = 1
    """Training workers; with use_gpu each has one GPU. MIN MAX: as many as the cluster holds, fewer when a node is lost
    and more when one comes; the global batches stay the same."""
    elastic_resize_monitor_interval_s: Seconds = 60.0
    """With MIN MAX: how often a run looks whether the cluster holds more workers."""
    wait_for_workers_s: Seconds = 1800.0
    """Longest wait of a run for nodes that hold its workers, or MIN of them, at its start or after some were lost."""
    use_gpu: bool = False
    gpus_per_worker: Annotated[float, Range(gt=0.5, le=1)] = 1.0
    """GPUs reserved for each training worker with use_gpu: one, or so much of one that no second worker shares it; 0.9
    leaves a tenth for an index actor (placement.gpus_per_index)."""
    cpus_per_worker: Positive = 1.0
    """CPUs reserved for each training worker; torch uses as many threads."""
    data_cpus_per_worker: Positive | None = None
    """CPUs reserved for each worker's Ray Data pipeline, beside its own; None: with use_gpu what the nodes have left
    for each GPU beside workers and services, else 1."""
    cpus_per_shard: NotNegative | None = None
    """CPUs reserved for each bank actor; None: 1 with use_gpu, else 0."""
    cpus_per_index: NotNegative = 1.0
    """CPUs reserved for each index actor of index.space=feature."""
    gpus_per_index: NotNegative = 0.0
    """GPUs reserved for each of them; a share lets several use one."""
    max_failures: Annotated[int, Range(ge=0)] = 3
    """Restarts from the last checkpoint before the run gives up; a node that is lost without notice costs one."""

    def __post_init__(self) -> None:
        check_settings(self, "placement")
        require(
            self.min_workers <= self.max_workers,
            f"placement.num_workers must be N, or MIN MAX with MIN <= MAX, got {' '.join(map(str, self._bounds))}",
        )

    @property
    def min_workers(self) -> int:
        """The fewest workers a run continues with."""
        return self._bounds[0]

    @property
    def max_workers(self) -> int:
        """The most workers a run has."""
        return self._bounds[-1]

    @property
    def shard_cpus(self) -> float:
        """CPUs reserved for each bank actor."""
        return (1.0 if self.use_gpu else 0.0) if self.cpus_per_shard is None else self.cpus_per_shard

    @property
    def data_cpus(self) -> float:
        """CPUs of each worker's pipeline; 1 where the nodes have yet to say how many there are."""
        return 1.0 if self.data_cpus_per_worker is None else self.data_cpus_per_worker

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change during a run."""
        return self.min_workers < self.max_workers

    @property
    def _bounds(self) -> tuple[int, ...]:
        return (self.num_workers,) if isinstance(self.num_workers, int) else self.num_workers


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The search; each list is sampled from, each pair is a log-uniform range."""

    num_samples: Count = 8
    """Trials."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha stops trials that lose."""
    search: Literal["random", "optuna"] = "random"
    num_neighbors: tuple[Count, ...] = (4, 8, 16)
    gamma: tuple[Positive, Positive] = (1e-3, 3e-2)
    lr: tuple[Positive, Positive] = (3e-4, 3e-3)
    uncertainty_lr: tuple[Positive, Positive] = (0.1, 1.0)
    kernel_width: tuple[Positive, Positive] = (0.25, 1.0)
    grace_epochs: Epochs = 2.0
    """asha: epochs every trial gets before it can be stopped."""
    reduction_factor: Annotated[int, Range(ge=2)] = 2
    """asha: of the trials at a rung, one in so many goes on."""
    max_concurrent_trials: Count | None = None
    """None: as many as the cluster holds."""

    def __post_init__(self) -> None:
        check_settings(self, "sweep")
        require(len(self.num_neighbors) > 0, "sweep.num_neighbors must name at least one K, got none")
        for name in ("gamma", "lr", "uncertainty_lr", "kernel_width"):
            low, high = getattr(self, name)
            require(low <= high, f"sweep.{name} must be LOW HIGH with LOW <= HIGH, got {low} {high}")
