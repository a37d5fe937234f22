"""The node of a job's own cluster, in a process of its own: it starts while the job imports, and ends with the job.

`python -m ldlva_dist.runtime.local_node OPTIONS`, options as JSON; own_cluster.py starts it. It prints the address once
the node is there, or why it is not, and takes the node away when its input is closed.
"""

import json
import logging
import os
import selectors
import sys
from typing import Any

from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray._private.node import Node
from ray._private.parameter import RayParams

from ldlva_dist.runtime import start_worker
from ldlva_dist.runtime.own_cluster import ALONE


class LocalNode(Node):
    """Ray's node without what nobody asks: the autoscaler's monitor, the log monitor and, mostly, the dashboard."""

    def start_api_server(self, *, include_dashboard: bool | None, raise_on_failure: bool) -> None:
        """Without a dashboard Ray would start its process all the same, for usage statistics."""
        if include_dashboard:
            super().start_api_server(include_dashboard=include_dashboard, raise_on_failure=raise_on_failure)


def start_node(*, dashboard: bool) -> LocalNode:
    """Start what ``ray.init`` would, with workers that are forked."""
    enable_token_auth_by_default()
    ensure_token_if_auth_enabled({}, create_token_if_missing=True)
    parameters = RayParams(
        labels={ALONE: "true"},
        include_dashboard=dashboard,
        include_log_monitor=False,  # pyright: ignore[reportArgumentType]
        no_monitor=True,
        setup_worker_path=start_worker.__file__,
        # Ahead of the first task they would be workers without a job, of which most are never used.
        _system_config={"prestart_worker_first_driver": False},  # pyright: ignore[reportArgumentType]
    )
    return LocalNode(parameters, head=True, shutdown_at_exit=True, spawn_reaper=True, ray_init_cluster=True)


def main(options: dict[str, Any]) -> None:
    """Start, say where, wait for the end."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    node = None
    try:
        node = start_node(**options)
    except Exception as error:  # what Ray's start raises is often nothing but an Exception
        answer = {"error": (str(error) or type(error).__name__).strip().splitlines()[0]}
    else:
        answer = {"address": node.address}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    if node:
        wait_for_end(node)


def wait_for_end(node: Node) -> None:
    """Wait until the job is gone, or the node: workers take this process's end for the node's."""
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(os.pidfd_open(node.all_processes["raylet"][0].process.pid), selectors.EVENT_READ)
        selector.select()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
