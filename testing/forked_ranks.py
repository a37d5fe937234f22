"""Ranks of a process group without Ray: forked from one server that has imported what takes seconds, once."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

SLOW_TO_IMPORT = [
    "pytest",
    "torch",
    "torch.distributed",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "deepspeed",
    "deepspeed.ops",
    "ldlva_dist.training.build",
    "ldlva_dist.checkpoint.saver",
]


def run_ranks(rank: Callable[..., None], arguments: tuple[Any, ...], world_size: int) -> None:
    """Call ``rank(0..world_size - 1, *arguments)``, each in its process; the error of a rank is raised here.

    The processes see the environment as it was at the first call.
    """
    multiprocessing.set_forkserver_preload(SLOW_TO_IMPORT)
    mp.start_processes(  # pyright: ignore[reportPrivateImportUsage]
        rank, arguments, nprocs=world_size, start_method="forkserver"
    )
