"""GPUs that FAISS seems to see."""

from collections.abc import Callable

import pytest

from ldlva_dist.index import backends


@pytest.fixture
def pretend_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make FAISS see some GPUs; what goes to one is copied as faiss-cpu copies, and stays on the CPU."""

    def pretend(gpus: int) -> None:
        monkeypatch.setattr(backends, "_num_gpus", lambda: gpus)
        monkeypatch.setattr(backends, "_to_gpu", lambda faiss, index, device: faiss.clone_index(index))

    return pretend
