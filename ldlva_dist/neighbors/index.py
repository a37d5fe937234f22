"""Nearest-neighbour search behind one interface. N = points, q = queries, d = dimensions, k = answers per query."""

from importlib import import_module
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ldlva_dist.errors import SettingError

Backend = Literal["auto", "kdtree", "faiss_cpu", "faiss_gpu"]

GPU_TEMP_BYTES = 256 * 2**20
GPU_MAX_K = 2048
KDTREE_MAX_DIMENSIONS = 3
_ROUNDING = 32 * float(np.finfo(np.float32).eps)


class Index(Protocol):
    """Searches a fixed set of points; who they are is their row number."""

    max_k: int
    """Largest k a search may ask for."""
    error: float
    """Largest absolute error of a squared distance by which points are ordered."""

    def search(self, queries_qd: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Squared Euclidean distances [q, k] and rows [q, k] of the k nearest points, nearest first."""
        ...


class KDTreeIndex:
    """Exact search in float64 on all cores; the right choice in the plane, hopeless in many dimensions."""

    def __init__(self, points_Nd: NDArray[np.float32]) -> None:
        self.max_k, self.error = len(points_Nd), 0.0
        self._tree = KDTree(points_Nd)

    def search(self, queries_qd: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        distances, rows = self._tree.query(queries_qd, k=k, workers=-1)
        shape = len(queries_qd), k  # SciPy drops the axis of k = 1
        return np.square(distances).astype(np.float32).reshape(shape), np.asarray(rows, dtype=np.int64).reshape(shape)


class FaissIndex:
    """Exhaustive search in float32, on the CPU or over all GPUs of the process; the GPU takes one caller at a time."""

    def __init__(self, points_Nd: NDArray[np.float32], *, gpu: bool) -> None:
        faiss = _faiss()
        self._center_d = points_Nd.mean(axis=0)
        centered_Nd = np.ascontiguousarray(points_Nd - self._center_d, dtype=np.float32)
        largest = float(np.square(centered_Nd, dtype=np.float64).sum(axis=1).max())
        self.max_k = min(len(points_Nd), GPU_MAX_K) if gpu else len(points_Nd)
        self.error = _ROUNDING * largest  # |a|^2 - 2ab + |b|^2 cancels where points lie close together
        self._index: Any = _gpu_index(faiss, centered_Nd.shape[1]) if gpu else faiss.IndexFlatL2(centered_Nd.shape[1])
        self._index.add(centered_Nd)

    def search(self, queries_qd: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self._index.search(np.ascontiguousarray(queries_qd - self._center_d, dtype=np.float32), k)


def build_index(points_Nd: NDArray[np.float32], backend: Backend = "auto") -> Index:
    """An index of the points, in the backend that :func:`resolve` names."""
    chosen = resolve(backend, points_Nd.shape[1])
    return KDTreeIndex(points_Nd) if chosen == "kdtree" else FaissIndex(points_Nd, gpu=chosen == "faiss_gpu")


def resolve(backend: Backend, dimensions: int = 2) -> Backend:
    """What "auto" stands for here: FAISS where it sees a GPU, else a KD-tree in few dimensions, else FAISS."""
    if backend == "auto":
        return "faiss_gpu" if _num_gpus() else "kdtree" if dimensions <= KDTREE_MAX_DIMENSIONS else "faiss_cpu"
    if backend == "faiss_gpu" and not _num_gpus():
        raise SettingError("index.backend faiss_gpu must find a GPU and the package faiss-gpu, got none")
    return backend


def _faiss() -> Any:
    try:
        return import_module("faiss")
    except ImportError as e:
        raise SettingError("index.backend faiss_* must find the package faiss (extra [cpu] or [gpu]), got none") from e


def _num_gpus() -> int:
    try:
        return import_module("faiss").get_num_gpus()
    except ImportError:
        return 0


def _gpu_index(faiss: Any, dimensions: int) -> Any:
    """One flat index on each GPU; points are dealt to them in equal parts and answers are merged."""
    parts = []
    for device in range(_num_gpus()):
        resources, config = faiss.StandardGpuResources(), faiss.GpuIndexFlatConfig()
        resources.setTempMemory(GPU_TEMP_BYTES)
        config.device = device
        parts.append(faiss.GpuIndexFlatL2(resources, dimensions, config))
    if len(parts) == 1:
        return parts[0]
    shards = faiss.IndexShards(dimensions, True, True)
    for part in parts:
        shards.add_shard(part)
    return shards
