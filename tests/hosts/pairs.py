"""Two runs of the same settings, of which one has a host to itself and the other is spread over two."""

from dataclasses import replace

from ldlva_dist.config import RunConfig
from testing.faults.checks import find_faults, numbers_of
from testing.hosts.cluster import HostCluster
from testing.hosts.harness import differing, host_run

LIMIT_S, CLEAN_S = 600.0, 60.0
EVERY = 15
"""Steps from one checkpoint to the next."""


def configs(one: str, two: str, epochs: float) -> tuple[RunConfig, RunConfig]:
    """A host of two CPUs holds both ranks where each has 0.75, and one where it has 1.25."""
    return _config(one, epochs, 0.75), _config(two, epochs, 1.25)


def assert_equal(hosts: HostCluster, one: RunConfig, two: RunConfig) -> None:
    """The second run trained every position once, and ended with the same bytes as the first."""
    with hosts.hosts["client"].network():
        numbers = numbers_of(one.uri)
        assert find_faults(two, two.uri, numbers) == []
        assert differing(one.uri, two.uri, len(numbers.losses)) == []


def _config(name: str, epochs: float, cpus_per_worker: float) -> RunConfig:
    config = host_run(name)
    training = replace(config.training, epochs=epochs, evaluate_every_epochs=epochs, checkpoint_every_steps=EVERY)
    placement = replace(config.placement, cpus_per_worker=cpus_per_worker)
    return replace(config, training=training, placement=placement)
