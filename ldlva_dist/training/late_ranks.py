"""A collective that fails says who was waited for, and where."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from ldlva_dist.errors import ClusterError
from ldlva_dist.method import posted_exchange

LOST = ("Timed out", "Connection closed", "Connection reset", "Connection refused", "Broken pipe")
"""Words of gloo and NCCL about a rank that does not answer; their errors have no kind of their own."""
OURS = str(Path(__file__).parents[1])


@contextmanager
def named_waits(find_late: Callable[[str, int], Sequence[int]]) -> Iterator[None]:
    """Turn the error of a collective into one that names the ranks which did not take part, and what was being done.

    Args:
        find_late: Given the place in the program and this rank, the ranks that are not waiting there too.

    Raises:
        ClusterError: in place of an error of torch.distributed that says a rank is late or gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        rank, place = dist.get_rank(), _place(error)
        late = find_late(place, rank)
        who = f"ranks {list(late)} did not take part" if late else "all ranks took part, the network failed"
        said = str(error).strip().splitlines()[0]
        raise ClusterError(f"rank {rank} waited in {place}: {who} ({said})") from error


def _place(error: BaseException) -> str:
    """The innermost function of ours that an error came through, but for the one through which all ranks wait."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(OURS)]
    inner = [frame for frame in frames if frame.filename not in (__file__, posted_exchange.__file__)]
    return f"{Path(inner[-1].filename).stem}.{inner[-1].name}" if inner else "a collective"
