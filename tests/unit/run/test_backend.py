"""What Ray Train does to a group of workers by our word."""

from ldlva_dist.run.backend import StoppableTorchConfig


def test_workers_of_a_group_that_ends_are_asked_nothing() -> None:
    """One on a lost host would be waited for until Ray has given the host up; there is no group of workers here."""
    config = StoppableTorchConfig(backend="gloo")
    config.backend_cls().on_shutdown(None, config)
