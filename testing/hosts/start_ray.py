"""`ray` for a machine that is busy: a node has minutes to start, in place of 30 s, and nobody serves Ray Client.

A head whose server of Ray Client is slow to start would end.
"""

import time
from typing import Any

from ray._private import services
from ray.scripts import scripts

START_LIMIT_S = 300.0
_node_of = services.get_node


def get_node_in_time(*args: Any) -> Any:
    """What Ray knows of a node, once it knows it."""
    end = time.monotonic() + START_LIMIT_S
    while True:
        try:
            return _node_of(*args)
        except RuntimeError:
            if time.monotonic() > end:
                raise
        time.sleep(1.0)


if __name__ == "__main__":
    services.get_node = get_node_in_time
    scripts.get_ray_client_dependency_error = lambda: ImportError("not wanted")  # pyright: ignore[reportPrivateImportUsage]
    scripts.main()
