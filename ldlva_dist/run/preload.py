"""What a job that trains imports before its workers are forked from it (runtime/fork_server.py)."""

from importlib import import_module

from ldlva_dist.config import RunConfig


def preload_training(config: RunConfig, *, trials: bool = False) -> None:
    """Import what a run and its workers need, or a sweep with ``trials``; nothing where a GPU is used.

    CUDA and forks do not go together, and FAISS for GPUs must not meet torch in one process.
    """
    if config.placement.use_gpu or config.placement.gpus_per_index:
        return
    import_module("ldlva_dist.run.sweep" if trials else "ldlva_dist.run.launch")

    from ldlva_dist.training.engine import import_deepspeed

    import_deepspeed(use_gpu=False)
