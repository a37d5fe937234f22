"""A job whose cluster has lost its head ends with one sentence, before Ray ends its process with none.

Ray looks for a head that is gone for RAY_gcs_rpc_server_reconnect_timeout_s seconds, 60 by default, so that one with a
Redis behind it may come back; then it ends every process that was connected. Calls of Ray may hang until then. This
module gives up shortly before: first by an error where a run looks for it (:func:`require_head`), so that it leaves
its word in its folder, then by the end of the process.
"""

import os
import sys
import threading
import time

from ldlva_dist.errors import ClusterError
from ldlva_dist.storage.reachable import why_unreachable

PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
DEFAULT_S = 60.0
LOOK_SHARE, ERROR_SHARE, END_SHARE = 1 / 30, 0.6, 0.8
"""Of Ray's own limit: the pause between two looks, when the error comes, and when the process ends."""
_WATCHES: list["HeadWatch"] = []
"""One, in a process that is connected to a cluster of others."""


class HeadLost(ClusterError):
    """The head of the cluster that a job is connected to is gone; calls of Ray may not return."""


class HeadWatch:
    """Asks, as long as the process lives, whether somebody listens where the head is."""

    def __init__(self, address: str, limit_s: float) -> None:
        """Begin to look at ``address``, HOST:PORT; ``limit_s`` is Ray's own patience in seconds."""
        self._address, self._limit_s = address, limit_s
        self._silent_s, self._is_told = 0.0, False
        threading.Thread(target=self._look, name="head", daemon=True).start()

    @property
    def is_lost(self) -> bool:
        """Whether the head has been silent for too long."""
        return self._silent_s > ERROR_SHARE * self._limit_s

    def require(self) -> None:
        """HeadLost where it has."""
        if self.is_lost:
            self._is_told = True
            raise HeadLost(self._sentence)

    @property
    def _sentence(self) -> str:
        return (
            f"Ray's head at {self._address} has not answered for {ERROR_SHARE * self._limit_s:.0f} s, and the cluster "
            "is lost with it; when there is one again, run the same command again to resume from the last checkpoint"
        )

    def _look(self) -> None:
        began = None
        while self._silent_s < END_SHARE * self._limit_s:
            if why_unreachable(self._address) is None:
                began, self._silent_s = None, 0.0
            else:  # from failure to failure: a process that was stopped meanwhile has not asked
                began = began or time.monotonic()
                self._silent_s = time.monotonic() - began
            time.sleep(LOOK_SHARE * self._limit_s)
        if not self._is_told:
            sys.stderr.write(f"error: {self._sentence}\n")
            sys.stderr.flush()
        os._exit(ClusterError.exit_code)


def watch_head(address: str) -> None:
    """Begin to watch the head of the cluster that this process is connected to.

    Args:
        address: HOST:PORT of the head.
    """
    _WATCHES[:] = [HeadWatch(address, float(os.environ.get(PATIENCE, DEFAULT_S)))]


def require_head() -> None:
    """HeadLost where the head of this process's cluster has been silent for too long."""
    for watch in _WATCHES:
        watch.require()


def is_head_lost() -> bool:
    """Whether it has been; calls of Ray are then better left out."""
    return any(watch.is_lost for watch in _WATCHES)
