"""What all ranks decide alike after a step: to stop, to save by the clock, to finish a checkpoint, to give up.

Each rank says what it knows in a few numbers, which reach everybody with the gradients of the uncertainty table, or by
themselves, while the network's gradients travel. Requests to stop come as a SIGTERM to any worker or from the launching
process (run/control.py). Ray's notice that a node will be taken away is asked for at times, because asking is a barrier
over all workers. A checkpoint is saved at once then, because the node may go early, and another one shortly before it
goes, after which nothing is trained any more: it would be lost.
"""

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import ray.train
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from ray import ObjectRef
from torch import Tensor

from ldlva_dist.checkpoint.saved_files import newest_finished
from ldlva_dist.errors import DataError
from ldlva_dist.method.row_routes import begin_gather

LEAVE_S = 10.0
"""The workers leave so long before a node goes, or sooner, if a checkpoint takes more than half of it."""
RESTART_LIMIT_S = 60.0
"""Ray starts the workers again when a node's time is over; training goes on where it has not so long after."""
LOOK_S = 0.5
ASK_RAY_EVERY_S = 5.0  # Ray itself looks so often
_terminated = threading.Event()


def catch_sigterm() -> None:
    """From now on a SIGTERM to this process asks the run to stop; to be called in the main thread of a worker."""
    signal.signal(signal.SIGTERM, lambda *_: _terminated.set())


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from a step, the same on all ranks."""

    is_bad: bool
    """Some rank's loss is not finite."""
    stop: bool
    """Save and end."""
    save: bool
    """A checkpoint is due by the clock, or because a node will be taken away."""
    at_once: bool
    """The checkpoint must be whole before the next step, which may not come: Ray begins no task of a stream on a node
    that will be taken away."""
    leave: bool
    """A node goes now: save, and wait for Ray to start the workers again."""
    uploaded: bool
    """All ranks' files of the checkpoint in flight are there, or none is in flight."""


class Agreement:
    """One rank's voice in the verdicts."""

    def __init__(
        self,
        stopping: ObjectRef[Any] | None,
        *,
        save_every_minutes: float | None,
        tell: Callable[[str], object] = lambda sentence: None,
    ) -> None:
        """``stopping`` is answered once the launching process asks the run to stop, which shows what it is told."""
        self._is_first, self._tell = dist.get_rank() == 0, tell
        self._is_asked_to_stop = threading.Event()
        if stopping is not None:  # asking Ray in every step would take the time of a small one
            stopping.future().add_done_callback(lambda _: self._is_asked_to_stop.set())
        self._save_every_s = 60 * save_every_minutes if save_every_minutes else math.inf
        self._saved_at = self._asked_at = time.monotonic()
        self._preempted: set[str] = set()
        self._goes_at = math.inf

    def vote(
        self,
        *,
        loss: float,
        uploading: bool,
        saving_s: float,
        send: Callable[[Tensor], Callable[[], Tensor]] | None = None,
    ) -> Callable[[], Verdict]:
        """Begin to tell all ranks this one's loss, its upload and the clock. Collective, once a step.

        What is returned waits for what all say, and gives what follows.

        Args:
            loss: This rank's.
            uploading: Whether its files of a checkpoint are on their way.
            saving_s: How long a checkpoint takes until all its files are there, seconds.
            send: Begins to bring what this rank says [F], 0 or 1 each, to all, and gives what waits for what all say
                [W, F], where that travels with something else; None: by itself.
        """
        now = time.monotonic()
        said = [
            not math.isfinite(loss),
            _terminated.is_set() or self._is_asked_to_stop.is_set(),
            self._is_first and now - self._saved_at >= self._save_every_s,
            self._is_first and now - self._asked_at >= ASK_RAY_EVERY_S,
            self._is_first and self._goes_at - now <= max(LEAVE_S, 2 * saving_s),
            uploading,
        ]
        return partial(self._verdict, (send or begin_gather)(torch.tensor(said, dtype=torch.float32)), now)

    def _verdict(self, wait: Callable[[], Tensor], now: float) -> Verdict:
        is_bad, stop, save, ask, leave, uploading = wait().bool().any(dim=0).tolist()
        is_told = False
        if ask:
            self._asked_at = now
            is_told = self._is_node_lost_soon()
        return Verdict(
            is_bad=is_bad,
            stop=stop,
            save=save or is_told or leave,
            at_once=is_told or leave,
            leave=leave,
            uploaded=not uploading,
        )

    def note_saved(self) -> None:
        """A checkpoint was begun: the clock starts anew."""
        self._saved_at = time.monotonic()

    def wait_for_restart(self, step: int) -> None:
        """Stand still, with ``step`` saved, until Ray ends this process; or until a stop is asked for, or it is late.

        Ray would count workers that end by themselves as failures, or take the run for finished.
        """
        left_s = max(0.0, self._goes_at - time.monotonic())
        if self._is_first:
            self._tell(f"a node goes in {left_s:.0f} s: step {step} is saved, and Ray will start the workers again")
        end, self._goes_at = time.monotonic() + left_s + RESTART_LIMIT_S, math.inf
        while time.monotonic() < end and not self._is_asked_to_stop.is_set() and not _terminated.wait(LOOK_S):
            pass

    def _is_node_lost_soon(self) -> bool:
        """Whether Ray has given notice of a node that it had not named before; Ray restarts the workers by itself."""
        info = ray.train.get_preemption_info()
        new = set(info.preempted_node_ids) - self._preempted if info else set()
        self._preempted |= new
        if info and new and info.deadline_ms is not None:
            self._goes_at = time.monotonic() + info.deadline_ms / 1000 - time.time()
        return bool(new)


def give_up(run_uri: str, step: int, loss: float, ids: NDArray) -> NoReturn:
    """Say on every rank which one's loss it was, and of which samples. Collective.

    Args:
        run_uri: The run, whose last checkpoint is named.
        step: The step, counted from 1.
        loss: This rank's.
        ids: [b] the samples that this rank trained on in the step.

    Raises:
        DataError: always, the same on all ranks; the run is not tried again.
    """
    said: list[tuple[float, list[int]] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(said, None if math.isfinite(loss) else (loss, ids.tolist()))
    rank, bad = next((rank, bad) for rank, bad in enumerate(said) if bad is not None)
    raise DataError(
        f"the loss of step {step} is {bad[0]} on rank {rank}, which trained on the samples {bad[1]}; "
        f"the last good checkpoint is {newest_finished(run_uri) or 'none: the run had not saved yet'}. "
        "A lower optim.lr or an optim.gradient_clipping under another name may help, where the samples are sound"
    )
