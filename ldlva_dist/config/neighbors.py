"""Settings of neighbours, their bank, and the uncertainty."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ldlva_dist.values.settings import Count, Epochs, Momentum, NotNegative, Range, Seconds, check_settings, require

Shards = Annotated[int, Range(ge=1, le=4096)]


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """The search for neighbours."""

    space: Literal["va", "feature"] = "va"
    """va: neighbours in the valence-arousal plane, found once per data set by jobs/build_index.py; feature: in the
    network's own features, found anew while the run goes on (until then those in the plane)."""
    backend: Literal["auto", "kdtree", "faiss_cpu", "faiss_gpu"] = "auto"
    """auto: a KD-tree in the plane, FAISS in feature space: on the GPU where index actors have one, else on the CPU."""
    rebuild_every_epochs: Epochs = 1.0
    """feature: how often the neighbours are found anew; a rebuild takes effect half that time after it began."""
    min_recall: Annotated[float, Range(gt=0, le=1)] = 1.0
    """feature: 1 compares everything with everything; less lets FAISS (HNSW on CPUs, IVF on GPUs) look at as few points
    as find this share of the true neighbours, measured on a sample at every rebuild."""
    num_shards: Shards = 1
    """feature: index actors, each holding a range of the samples."""

    def __post_init__(self) -> None:
        check_settings(self, "index")
        require(
            self.space == "va" or self.backend != "kdtree",
            "index.backend must be auto, faiss_cpu or faiss_gpu for index.space=feature, got kdtree",
        )


@dataclass(frozen=True, kw_only=True)
class NeighborConfig:
    """The neighbours that are mixed into a sample's target."""

    num_neighbors: Count = 8
    """K, neighbours mixed into each target."""
    source: Literal["bank", "exact"] = "bank"
    """bank: their last stored outputs; exact: their images are read and forwarded in every step, as the reference does,
    at (K + 1) times the cost, to show what the bank loses."""
    cache_mb: Annotated[int, Range(ge=1, le=2**20)] = 512
    """exact: memory of each worker for decoded images of neighbours."""
    timeout_s: Seconds = 120.0
    """Longest wait for an answer of the service."""

    def __post_init__(self) -> None:
        check_settings(self, "neighbors")


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """The last outputs of every training sample."""

    place: Literal["actors", "workers"] = "actors"
    """actors: in the memory of the nodes, kept by actors; workers: in the memory of the training workers' own devices,
    cut over them, read and written by all-to-alls between those. A run may resume with the other."""
    num_shards: Shards = 1
    """actors: how many the bank is cut over, by id range."""
    probs_dtype: Literal["float16", "float32"] = "float16"
    """Type that the bank stores probabilities in."""
    features_dtype: Literal["int8", "float16", "float32"] = "float16"
    """Type that the bank stores features in; int8 with one scale for each row."""
    momentum: Momentum = 0.0
    """Weight of the old value when a stored probability is overwritten."""
    warm_start: Literal["empty", "labels", "forward"] = "empty"
    """Content of a new run's bank: nothing; each sample's smoothed label; or the outputs of one pass of the network."""
    on_loss: Literal["rollback", "continue"] = "rollback"
    """A lost shard takes the run back to its last checkpoint; continue: it starts again with the last snapshot, and
    rows that it does not know count as never written."""

    def __post_init__(self) -> None:
        check_settings(self, "bank")
        if self.place == "workers":
            require(
                self.num_shards == 1,
                "bank.num_shards must be 1 for bank.place=workers, which hold a range of the bank each, "
                f"got {self.num_shards}",
            )
            require(
                self.on_loss == "rollback",
                "bank.on_loss must be rollback for bank.place=workers, whose rows are lost with a worker, got continue",
            )


@dataclass(frozen=True, kw_only=True)
class UncertaintyConfig:
    """The per-sample uncertainty table."""

    initial_logit: Annotated[float, Range(ge=-100, le=100)] = -0.5
    """Logit that every sample starts with; sigmoid(-0.5) = 0.38 of the target comes from the neighbours."""
    lr: NotNegative = 0.3125
    """Step on each sample's own loss; the reference's 10 on a mean over 32."""
    momentum: Momentum = 0.0
    """Momentum of that step; only rows of the batch move."""

    def __post_init__(self) -> None:
        check_settings(self, "uncertainty")
