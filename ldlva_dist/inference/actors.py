"""Settings of batch prediction's actors; the command line reads them before anything is imported."""

from dataclasses import dataclass

from ldlva_dist.values.settings import Count, NotNegative, Positive, check_options


@dataclass(frozen=True, kw_only=True)
class Actors:
    """The actors that hold a copy of the network each."""

    num_actors: Count | None = None
    """Copies that work side by side; as many as the cluster holds if not given."""
    cpus_per_actor: Positive = 1.0
    gpus_per_actor: NotNegative = 0.0
    """A share, such as 0.25, lets several actors use one GPU."""

    def __post_init__(self) -> None:
        check_options(self)
