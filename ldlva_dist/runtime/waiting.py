"""Waiting for actors and tasks: always with a limit; an error is one of ours again, and says which shard it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError

from ldlva_dist.errors import ClusterError, DataError, LdlvaError, NeighborServiceError, SettingError, StateLost
from ldlva_dist.waits.patience import TELL_EVERY_S, Patience


class ShardsLost(NeighborServiceError):
    """Shards that died, or that started again and know nothing of the attempt."""

    def __init__(self, message: str, shards: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.shards = shards


def get_all(
    refs: Sequence[ObjectRef[Any]],
    timeout_s: float,
    what: str,
    names: Sequence[int] | None = None,
    kind: str = "bank shards",
) -> list[Any]:
    """All answers within the limit; an error names the shards that are late or lost, or says what one of them said.

    Raises:
        ShardsLost: as soon as the first loss is known.
        NeighborServiceError: for shards that do not answer.
    """
    names, patience = range(len(refs)) if names is None else names, Patience(timeout_s)
    try:
        while True:
            try:
                return ray.get(list(refs), timeout=min(TELL_EVERY_S, patience.left_s))
            except GetTimeoutError:
                if not patience.left_s:
                    raise
                patience.tell(kind, f"{_late(refs, names)} of {list(names)} have yet to answer when asked {what}")
    except GetTimeoutError as e:
        slow = _late(refs, names)
        raise NeighborServiceError(f"{kind} {slow} did not answer in {timeout_s:.3g} s when asked {what}") from e
    except (RayActorError, ObjectLostError, RayTaskError) as e:
        errors = {name: error for name, ref in zip(names, refs, strict=True) if (error := _error(ref))}
        lost = [name for name, error in errors.items() if _is_loss(error)]
        if lost:
            raise ShardsLost(f"{kind} {lost} died or cannot be reached, found when asked {what}", lost) from e
        cause = own_error(e)
        if cause is None:
            raise
        raise type(cause)(f"{kind} {list(errors)} failed when asked {what}: {cause}") from e


def _late(refs: Sequence[ObjectRef[Any]], names: Sequence[int]) -> list[int]:
    _, late = ray.wait(list(refs), num_returns=len(refs), timeout=0)
    return [name for name, ref in zip(names, refs, strict=True) if ref in late]


def _error(ref: ObjectRef[Any]) -> Exception | None:
    """What has come instead of an answer."""
    try:
        ray.get(ref, timeout=0)
    except GetTimeoutError:
        return None
    except (RayActorError, ObjectLostError, RayTaskError) as e:
        return e
    return None


def _is_loss(error: Exception) -> bool:
    if isinstance(own_error(error), DataError | SettingError):
        return False  # it would come again
    return isinstance(error, RayActorError | ObjectLostError) or isinstance(getattr(error, "cause", None), StateLost)


@contextmanager
def own_errors() -> Iterator[None]:
    """Where a task ended with one of our errors, raise that: its sentence and its exit code are meant for the user."""
    try:
        yield
    except RayTaskError as error:
        if ours := own_error(error):
            raise ours from error
        raise


def own_error(*errors: BaseException) -> LdlvaError | None:
    """An error of ours, free of what Ray wraps around it; of several, one that a restart would meet again."""
    found = [ours for error in errors if (ours := _unwrapped(error))]
    return min(found, key=lambda ours: ours.exit_code, default=None)


def last_line(error: BaseException) -> str:
    """The cause of an error that Ray or a library raised, which stands below its tracebacks."""
    return str(error).strip().splitlines()[-1].strip()


def _unwrapped(error: BaseException) -> LdlvaError | None:
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
