"""Nodes that are not there yet: whether there can be more, how they are asked for, and the wait until they have come.

All requests go to Ray's own coordinator, an actor that Ray Train and Ray Data ask too: the autoscaler keeps one
request, and who asked it directly would take back what others asked for.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray._private import state, worker
from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]
from ray.core.generated import autoscaler_pb2
from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import ResourceRequestPriority
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.exceptions import RayError

from ldlva_dist.errors import ClusterError, SettingError
from ldlva_dist.runtime.head_watch import is_head_lost
from ldlva_dist.runtime.own_cluster import ALONE
from ldlva_dist.waits.patience import Patience

LOOK_S, ASK_EVERY_S, EXPIRES_S = 1.0, 20.0, 180.0
"""Ray Train's own seconds for a request: asked again, and forgotten."""
RPC_LIMIT_S = 10.0
COUNTED = ("CPU", "GPU")
Bundle = Mapping[str, float]


def can_grow() -> bool:
    """Whether nodes may join: not a cluster that this process, or the job that it belongs to, started for itself."""
    node = worker._global_node
    return (node is None or not node.head) and not any(ALONE in each["Labels"] for each in ray.nodes())


class NodeRequest:
    """What one job wants there to be, for as long as it renews it."""

    def __init__(self, name: str) -> None:
        """Nothing is asked for yet; of two requests of one name the later counts."""
        self._name, self._asked = f"ldlva-{name}", float("-inf")
        self._bundles: list[dict[str, float]] = []

    def renew(self, bundles: Sequence[Bundle]) -> None:
        """Ask for nodes that hold these bundles, those that are there included; at most every ASK_EVERY_S seconds."""
        wanted = [dict(bundle) for bundle in bundles]
        if wanted == self._bundles and time.monotonic() - self._asked < ASK_EVERY_S:
            return
        self._bundles, self._asked = wanted, time.monotonic()
        # Before others' requests nothing is kept for this one: workers that ask for the same nodes have them.
        low = ResourceRequestPriority.LOW
        self._call("request_resources", resources=wanted, expire_after_s=EXPIRES_S, priority=low)

    def cancel(self) -> None:
        """Want nothing more."""
        if self._bundles:
            self._bundles, self._asked = [], float("-inf")
            self._call("cancel_request")

    def is_refused(self, *, alone: bool = True) -> bool:
        """Whether the autoscaler says that it may never start so many nodes; only its second version tells.

        It judges what all jobs ask for together.

        Args:
            alone: Whether only a judgement counts that is of this request and of nobody else's.
        """
        try:
            status = _status()
        except RayError:  # a head that is slow is asked again
            return False
        if not any(node.ray_node_type_name for node in status.cluster_resource_state.node_states):
            return False  # an autoscaler that only looks on refuses all that is not there
        refused = status.autoscaling_state.infeasible_cluster_resource_constraints
        wanted = Counter(_key(bundle) for bundle in self._bundles)
        return any(not alone or _counted(constraint) == wanted for constraint in refused)

    def _call(self, method: str, **arguments: Any) -> None:
        if is_head_lost():
            return
        coordinator: Any = get_or_create_autoscaling_coordinator()
        asked = getattr(coordinator, method).remote(requester_id=self._name, **arguments)
        try:
            ray.get(asked, timeout=RPC_LIMIT_S)
        except RayError:  # asked again soon, or forgotten soon
            return


def wait_for_nodes(
    request: NodeRequest, bundles: Sequence[Bundle], limit_s: float, *, asked_by: str | None = None
) -> None:
    """Wait until the nodes have what these bundles need, free or not; the autoscaler is asked for it.

    Args:
        request: Renewed meanwhile, cancelled where the wait fails, and else forgotten by and by.
        bundles: Resources of each process, by Ray's names.
        limit_s: Longest wait.
        asked_by: Options that ask for so much; None: the placement of a run.

    Raises:
        SettingError: where the cluster cannot ever have so much, as far as that is known.
        ClusterError: after ``limit_s``.
    """
    patience = Patience(limit_s)
    try:
        while not has_room(bundles):
            require_reachable(bundles, asked_by=asked_by)
            request.renew(bundles)
            if patience.waited_s > LOOK_S and request.is_refused():
                raise _too_much(bundles, "the autoscaler of this cluster may not start as many nodes", asked_by)
            if not patience.left_s:
                raise ClusterError(
                    f"the cluster did not grow enough within {limit_s:g} s"
                    f"{'' if asked_by else ' (placement.wait_for_workers_s)'}: {_state(bundles, asked_by)}"
                )
            patience.tell("nodes", _state(bundles, asked_by))
            time.sleep(min(LOOK_S, patience.left_s))
    except BaseException:
        request.cancel()
        raise


def require_reachable(bundles: Sequence[Bundle], *, asked_by: str | None = None) -> None:
    """SettingError where a cluster is known to be unable to have so much; nothing is asked for, or waited for."""
    if not can_grow() and not has_room(bundles):
        raise _too_much(bundles, f"got a cluster with {words(ray.cluster_resources())}", asked_by)
    most = state.state.get_max_resources_from_cluster_config()
    needed = total(bundles)
    if most and any(needed.get(name, 0.0) > most.get(name, 0.0) for name in COUNTED):
        raise _too_much(bundles, f"its autoscaler starts at most {words(most)}", asked_by)


def has_room(bundles: Sequence[Bundle]) -> bool:
    """Whether the nodes that are there have as much altogether, free or not."""
    return fitting(total(bundles)) >= 1


def fitting(needed: Bundle) -> int:
    """How many times the nodes that are there have so much altogether, free or not."""
    have = ray.cluster_resources()
    return min(int(have.get(name, 0.0) / amount + 1e-6) for name, amount in needed.items() if amount)


def total(bundles: Sequence[Bundle]) -> dict[str, float]:
    """The sum of some bundles; of those that ask for more than half a GPU no two can share one."""
    names = {name for bundle in bundles for name in bundle}
    needed = {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in sorted(names)}
    if alone := sum(bundle.get("GPU", 0.0) > 0.5 for bundle in bundles):
        needed["GPU"] = max(needed["GPU"], float(alone))
    return needed


def words(amounts: Bundle) -> str:
    """CPUs and GPUs as people say them."""
    return f"{amounts.get('CPU', 0.0):g} CPUs and {amounts.get('GPU', 0.0):g} GPUs"


def _too_much(bundles: Sequence[Bundle], why: str, asked_by: str | None) -> SettingError:
    needed = words(total(bundles))
    return SettingError(
        f"{asked_by} need {needed}, {why}" if asked_by else f"placement needs {needed} for one run, {why}"
    )


def _state(bundles: Sequence[Bundle], asked_by: str | None) -> str:
    asks = f"{asked_by} need" if asked_by else "one run needs"
    return f"there are {words(ray.cluster_resources())}, {asks} {words(total(bundles))}"


def _status() -> Any:
    reply: Any = autoscaler_pb2.GetClusterStatusReply()  # pyright: ignore[reportAttributeAccessIssue]
    address = ray.get_runtime_context().gcs_address
    reply.ParseFromString(GcsClient(address).get_cluster_status(timeout_s=RPC_LIMIT_S))
    return reply


def _counted(constraint: Any) -> Counter[Any]:
    return Counter({_key(each.request.resources_bundle): each.count for each in constraint.resource_requests})


def _key(bundle: Bundle) -> frozenset[tuple[str, float]]:
    return frozenset((name, float(amount)) for name, amount in bundle.items() if amount)
