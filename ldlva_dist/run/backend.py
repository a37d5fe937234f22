"""The process group of the workers, set up by Ray Train, in workers that do not die of a SIGTERM at once."""

import socket
from typing import Any

from ray.train.torch import TorchConfig

from ldlva_dist.errors import SettingError
from ldlva_dist.runtime.gpu_sight import why_no_gpu
from ldlva_dist.runtime.interfaces import take_node_interface
from ldlva_dist.training.rank_votes import catch_sigterm


class StoppableTorchConfig(TorchConfig):
    """Ray's torch backend, on the network of Ray's own addresses; a SIGTERM to a worker asks the run to save and stop.

    Python sets signal handlers in a process's main thread only; training runs in another, but a backend's hooks do not.
    """

    @property
    def backend_cls(self) -> Any:
        """Ray's backend with more done on every worker."""
        return _StoppableBackend


class _StoppableBackend(TorchConfig().backend_cls):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if "nccl" in (backend_config.backend or ""):
            _require_gpus(worker_group.execute(_find_fault))
        worker_group.execute(take_node_interface)
        super().on_start(worker_group, backend_config)
        worker_group.execute(catch_sigterm)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Nothing: the workers' processes end, and their group with them.

        Ray would ask each of them to leave the group first, and wait for those of a lost host until it is given up.
        """


def _find_fault() -> str | None:
    why = why_no_gpu()
    return why and f"on {socket.gethostname()} {why}"


def _require_gpus(faults: list[str | None]) -> None:
    """SettingError where a worker cannot use its GPU: NCCL would say less, and a restart would meet the same."""
    found = sorted({fault for fault in faults if fault})
    if found:
        raise SettingError(f"placement.use_gpu needs a torch that sees a GPU in every worker, got: {'; '.join(found)}")
