"""Errors of Ray tasks and actors, as the user is to meet them."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayActorError, RayError, RayTaskError

from ldlva_dist.errors import ClusterError, DataError, LdlvaError, SettingError


@contextmanager
def own_errors() -> Iterator[None]:
    """Where a task ended with one of our errors, raise that: its sentence and its exit code are meant for the user."""
    try:
        yield
    except RayTaskError as error:
        if ours := own_error(error):
            raise ours from error
        raise


def own_error(error: BaseException) -> LdlvaError | None:
    """An error of ours, free of what Ray wraps around it; None for any other."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, LdlvaError) and not isinstance(inner, RayError):
            return inner
        if isinstance(inner, RayActorError) and inner.actor_init_failed:
            return _of_constructor(str(inner))
        inner = getattr(inner, "cause", None) or getattr(inner, "_base_exc", None) or inner.__cause__
    return None


def _of_constructor(text: str) -> LdlvaError | None:
    """Of an error in an actor's constructor Ray keeps the text alone, which ends with the error's name and sentence."""
    for kind in (SettingError, DataError, ClusterError):
        _, name, sentence = text.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")
        if name:
            return kind(sentence.strip())
    return None
