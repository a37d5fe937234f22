"""How many workers a run has, and how long it waits for them: Ray Train's policies, with what they leave open.

Both wait for nodes without a limit. The elastic one asks a list of nodes that is up to 20 s old, and then waits for a
lost node, or does not see a new one; it leaves no CPUs to services that are started again; and it ends a sound group at
once to start one of another size, which trains again what came after the last checkpoint. Policies and callback are
interfaces for Ray's own developers: a new version of Ray must be checked for them.
"""

import os
import time
from collections.abc import Callable
from typing import Any, cast

import ray
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ResizingState, TrainControllerState
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.train.v2.api.config import ScalingConfig

from ldlva_dist.config import PlacementConfig
from ldlva_dist.errors import ClusterError
from ldlva_dist.runtime import growth
from ldlva_dist.waits.patience import Patience, tell_by

START_LIMIT_S = 20.0
"""For the workers' places on the nodes, which are free; Ray's own minute is for clusters that grow first. A node that
died without a word counts as there for some 15 s."""
ASK_LIMIT_S, ASK_AGAIN_S = 10.0, 1.0


class LimitedTrainer(TorchTrainer):
    """A TorchTrainer with a policy of this module, and without Ray's actor for data sets: workers have their own."""

    def __init__(self, *args: Any, policy: ScalingPolicy, **kwargs: Any) -> None:
        """The arguments of a TorchTrainer, and the policy."""
        super().__init__(*args, **kwargs)
        self._policy = policy

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        os.environ.setdefault(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, str(START_LIMIT_S))
        return super()._initialize_and_run_controller(**controller | {"scaling_policy": self._policy})

    def _create_default_callbacks(self) -> list[Any]:
        return [callback for callback in super()._create_default_callbacks() if type(callback) is not DatasetsCallback]


class WorkerWait:
    """The longest time that a run stands without workers."""

    def __init__(self, placement: PlacementConfig, count_workers: Callable[[], int], control: Any) -> None:
        """``count_workers`` counts those that the cluster holds beside all else; ``control`` hears what is waited for.

        Args:
            placement: How many workers are wanted, and how long they are waited for.
            count_workers: Workers that the cluster holds beside all else that the run needs; called in the controller.
            control: The run's :class:`RunControl` actor; None says it on stderr.
        """
        self._placement, self._count_workers, self._control = placement, count_workers, control
        self._patience: Patience | None = None

    def check(self) -> None:
        """ClusterError when the time is over; called while there are no workers."""
        tell_by(self._control and self._control.tell_wait.remote)
        limit_s, asked = self._placement.wait_for_workers_s, self._placement.min_workers
        if self._patience is None:
            self._patience = Patience(limit_s)
            return
        if not self._patience.left_s:
            raise ClusterError(
                f"the run had no workers for {limit_s:g} s (placement.wait_for_workers_s): placement.num_workers "
                f"asks for at least {asked}, the nodes that are there hold {self._count_workers()} where "
                "nothing else runs on them; run the same command again to resume from the last checkpoint"
            )
        self._patience.tell(
            "workers",
            f"{asked} are wanted, the nodes that are there hold {self._count_workers()} where nothing else runs on "
            f"them, and {growth.words(ray.available_resources())} are free",
        )

    def renew(self) -> None:
        """There are workers."""
        self._patience = None


class WaitForCluster(FixedScalingPolicy):
    """As many workers as were asked for, as soon as the cluster holds them."""

    def __init__(self, scaling_config: ScalingConfig, wait: WorkerWait) -> None:
        """A fixed number."""
        super().__init__(scaling_config)
        self._wait = wait

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start them; Ray asks again where their places are not there within the limit of a start."""
        self._wait.check()
        return super().make_decision_for_non_running_worker_group()

    def make_decision_for_running_worker_group(self, *args: Any, **kwargs: Any) -> ScalingDecision:
        """Leave them as they are."""
        self._wait.renew()
        return super().make_decision_for_running_worker_group(*args, **kwargs)


class FollowCluster(ElasticScalingPolicy):
    """As many workers as the cluster holds now."""

    def __init__(self, scaling_config: ScalingConfig, wait: WorkerWait, count_workers: Callable[[], int]) -> None:
        """Follow the cluster between the bounds of ``scaling_config``; ``count_workers`` as in :class:`WorkerWait`."""
        super().__init__(scaling_config)
        self._wait, self._count_workers = wait, count_workers

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start what fits, or wait: a second at a time, as Ray's loop would ask again at once."""
        self._wait.check()
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            time.sleep(ASK_AGAIN_S)
        return decision

    def make_decision_for_running_worker_group(self, *args: Any, **kwargs: Any) -> ScalingDecision:
        """Ray's own: every ``elastic_resize_monitor_interval_s`` a group of another size, where that fits."""
        self._wait.renew()
        return super().make_decision_for_running_worker_group(*args, **kwargs)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        return min(super()._count_possible_workers(reserved_resources), self._count_workers())

    def _get_reserved_resources(self) -> Any:
        """What Ray's coordinator keeps for this run of the nodes that are there now; None where it does not answer."""
        coordinator: Any = self._autoscaling_coordinator
        asked = coordinator.get_reserved_resources.remote(self._requester_id, recompute=True)
        try:
            return ray.get(asked, timeout=ASK_LIMIT_S)
        except RayError:
            return None


class SaveBeforeResize(ControllerCallback):
    """Lets the workers save and leave before a group of another size takes their place, and tells of it."""

    def __init__(self, control: Any, *, grace_s: float) -> None:
        """``control`` is the run's :class:`RunControl` actor; the workers are waited for ``grace_s``."""
        self._control, self._grace_s = control, grace_s

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Only a sound group is resized; the workers of a broken one are beyond saving."""
        if not isinstance(current_state, ResizingState):
            return
        size = cast(ResizeDecision, current_state.scaling_decision).num_workers
        self._tell(f"the cluster holds {size} workers now: saving, to continue with them")
        if not ray.get(self._control.pause.remote(self._grace_s), timeout=self._grace_s + ASK_LIMIT_S):
            self._tell(f"the workers did not save within {self._grace_s:g} s (training.stop_grace_s)")

    def before_controller_execute_resize_decision(self, resize_decision: ResizeDecision) -> None:
        """Ray's word for every start of a group."""
        self._tell(f"starting {resize_decision.num_workers} workers")

    def _tell(self, sentence: str) -> None:
        self._control.tell.remote(sentence)
