"""How much Ray's object store of this node holds at most, meanwhile."""

import threading
from types import TracebackType
from typing import Any

import ray
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

NODE_MANAGER: Any = node_manager_pb2  # its names are made when it is imported


class PeakStore:
    """Asks the raylet again and again what it keeps for somebody; what may be thrown away does not count.

    with PeakStore() as peak:
        ...
    peak.bytes_more
    """

    def __init__(self) -> None:
        [node] = [node for node in ray.nodes() if node["Alive"]]
        channel = init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")  # with Ray's token
        self._stub: Any = node_manager_pb2_grpc.NodeManagerServiceStub(channel)
        self._over, self._thread = threading.Event(), threading.Thread(target=self._watch)
        self._before = self._most = self._held()

    @property
    def bytes_more(self) -> int:
        """The most, above what there was at the beginning."""
        return self._most - self._before

    def __enter__(self) -> "PeakStore":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(timeout=60)

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self._most = max(self._most, self._held())

    def _held(self) -> int:
        request = NODE_MANAGER.GetNodeStatsRequest(include_memory_info=False)
        return self._stub.GetNodeStats(request, timeout=30).store_stats.object_store_bytes_primary_copy
