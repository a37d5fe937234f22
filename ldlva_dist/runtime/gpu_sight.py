"""Whether torch sees the GPU that Ray gave to this process, and whether the driver is new enough for it."""

DRIVER_OF_CUDA = {12: 525, 13: 580}
"""Oldest NVIDIA driver of each CUDA."""


def why_no_gpu() -> str | None:
    """Why torch cannot use a GPU in this process, in one sentence; None where it can."""
    import torch  # not needed where there is no GPU to look for, and slow to import

    cuda = torch.version.cuda
    if cuda is None:
        return f"torch {torch.__version__} is built for CPUs"
    try:
        torch.ones(8, device="cuda").sum().item()
    except (RuntimeError, AssertionError) as error:  # the words of torch and of the driver
        oldest = DRIVER_OF_CUDA.get(int(cuda.partition(".")[0]))
        needs = f"; CUDA {cuda} needs an NVIDIA driver >= {oldest}" if oldest else ""
        return f"torch {torch.__version__} sees no GPU: {str(error).strip().splitlines()[0]}{needs}"
    return None
