"""Waiting for shards: always with a limit, and every error says which shard it was."""

from collections.abc import Sequence
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from ldlva_dist.errors import LdlvaError, NeighborServiceError


def get_all(
    refs: Sequence[ObjectRef[Any]], timeout_s: float, what: str, names: Sequence[int] | None = None
) -> list[Any]:
    """All answers within the limit; an error names the shards that are late or dead, or says what one of them said."""
    names = range(len(refs)) if names is None else names
    try:
        return ray.get(list(refs), timeout=timeout_s)
    except GetTimeoutError as e:
        _, late = ray.wait(list(refs), num_returns=len(refs), timeout=0)
        slow = [name for name, ref in zip(names, refs, strict=True) if ref in late]
        raise NeighborServiceError(f"bank shards {slow} did not answer in {timeout_s:g} s when asked {what}") from e
    except (RayActorError, ObjectLostError) as e:
        dead = [name for name, ref in zip(names, refs, strict=True) if _failed(ref)]
        raise NeighborServiceError(f"bank shards {dead} died or cannot be reached, found when asked {what}") from e
    except RayTaskError as e:
        if not isinstance(e.cause, LdlvaError):
            raise
        bad = [name for name, ref in zip(names, refs, strict=True) if _failed(ref)]
        raise type(e.cause)(f"bank shards {bad} failed when asked {what}: {e.cause}") from e


def _failed(ref: ObjectRef[Any]) -> bool:
    """Whether an error has come instead of an answer."""
    try:
        ray.get(ref, timeout=0)
    except GetTimeoutError:
        return False
    except (RayActorError, ObjectLostError, RayTaskError):
        return True
    return False
