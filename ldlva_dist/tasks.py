"""Errors of Ray tasks, as the user is to meet them."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayTaskError

from ldlva_dist.errors import LdlvaError


@contextmanager
def own_errors() -> Iterator[None]:
    """Where a task ended with one of our errors, raise that: its sentence and its exit code are meant for the user."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, LdlvaError):
            raise error.cause from error
        raise
