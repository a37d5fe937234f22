"""Nearest-neighbour search behind one interface. N = points, q = queries, d = dimensions, k = answers per query."""

from copy import copy
from importlib import import_module
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.errors import SettingError

Backend = Literal["auto", "kdtree", "faiss_cpu", "faiss_gpu"]
Points = NDArray[np.floating[Any]]

K_MAX = 32
"""Neighbours that a graph keeps unless told otherwise."""
GPU_TEMP_BYTES = 256 * 2**20
GPU_MAX_K = 2048
GPU_MAX_NPROBE = 2048
"""As with k, FAISS selects among no more on a GPU."""
KDTREE_MAX_DIMENSIONS = 3


class Index(Protocol):
    """Searches a fixed set of points; who they are is their row number."""

    max_k: int
    """Largest k a search may ask for."""
    exact: bool
    """Whether the points nearest by more than :meth:`error` are always found."""
    spare: int
    """Points beyond k that mostly show, given the error, that nearer ones were not missed."""

    @property
    def exhaustive(self) -> "Index | None":
        """An exact index of the same points that takes no memory of its own; None where another one is quicker."""
        ...

    def error(self, queries_qd: Points, squared_q: NDArray[np.float64]) -> NDArray[np.float64]:
        """[q] largest absolute error with which distances are compared with the given squared ones."""
        ...

    def search(self, queries_qd: Points, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Squared Euclidean distances [q, k] and rows [q, k] of the k nearest points, nearest first."""
        ...


class KDTreeIndex:
    """Search by pykdtree in float32; right in the plane, hopeless in many dimensions.

    The tree skips a cell by a distance that it adds up on the way down, ``d - before**2 + after**2`` at each cut that
    parts the cell from the query. Such a step errs by at most 8 units of 2**-24 of its result, d only grows, and each
    step halves the cell along its axis: from LARGEST down to the least difference of two coordinates, 2**-63, that is
    125 times. So distances err by less than 2**-14 of themselves for each axis; as much again is left for the points'
    own few units and terms of second order.
    """

    exact, spare = True, 1
    SMALLEST, LARGEST = 2.0**-40, 2.0**60
    """Coordinates beyond, but for 0, are compared in float64: squares of theirs may not be normal float32 numbers."""

    def __init__(self, points_Nd: Points) -> None:
        from pykdtree.kdtree import KDTree  # OMP_NUM_THREADS counts when it loads: Ray sets it as an actor starts

        size_Nd = np.abs(points_Nd)
        is_usual = ((size_Nd < self.LARGEST) & (size_Nd > self.SMALLEST) | (size_Nd == 0)).all()
        self._dtype = np.dtype(np.float32 if is_usual and points_Nd.dtype != np.float64 else np.float64)
        self._relative_error = 2.0**-13 * points_Nd.shape[1]
        self._least_error = 2.0**14 * float(np.finfo(self._dtype).tiny)  # of queries with other coordinates
        self._tree = KDTree(points_Nd.astype(self._dtype))
        self.max_k = len(points_Nd)

    @property
    def exhaustive(self) -> Index:
        return self

    def error(self, queries_qd: Points, squared_q: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._relative_error * squared_q + self._least_error

    def search(self, queries_qd: Points, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        squared, rows = self._tree.query(queries_qd.astype(self._dtype), k=k, sqr_dists=True)
        shape = len(queries_qd), k  # pykdtree drops the axis of k = 1
        return squared.astype(np.float32).reshape(shape), rows.astype(np.int64).reshape(shape)


class FaissIndex:
    """Exhaustive search in float32, on the CPU or over all GPUs of the process; the GPU takes one caller at a time."""

    exact, spare = True, 16

    def __init__(self, points_Nd: Points, *, gpu: bool = False) -> None:
        self._faiss, self._gpu = _faiss(), gpu
        num_points, dimensions = points_Nd.shape
        self._center_d = points_Nd.mean(axis=0, dtype=np.float64).astype(np.float32)
        centered_Nd = self._center(points_Nd)
        self._largest = float(_squared_norms(centered_Nd).max())
        # |a|^2 - 2ab + |b|^2 cancels where points lie close together; the bound is that of a sum in any order.
        self._rounding = (32 + 2 * dimensions) * float(np.finfo(np.float32).eps)
        self.max_k = min(num_points, GPU_MAX_K) if gpu else num_points
        without_points = self._make(centered_Nd)
        self._index: Any = _to_all_gpus(self._faiss, without_points) if gpu else without_points
        self._index.add(centered_Nd)

    @property
    def exhaustive(self) -> Index | None:
        return self

    def error(self, queries_qd: Points, squared_q: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._rounding * np.maximum(_squared_norms(self._center(queries_qd)), self._largest)

    def search(self, queries_qd: Points, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self._index.search(self._center(queries_qd), k)

    def _make(self, centered_Nd: NDArray[np.float32]) -> Any:
        """FAISS's index on the CPU, trained and without points."""
        return self._faiss.IndexFlatL2(centered_Nd.shape[1])

    def _center(self, points_nd: Points) -> NDArray[np.float32]:
        return np.ascontiguousarray(points_nd.astype(np.float32) - self._center_d)


class IVFIndex(FaissIndex):
    """FAISS's IVF: searches only the ``nprobe`` inverted lists nearest to a query, so it may miss some."""

    exact, spare = False, 1
    MIN_POINTS = 10_000
    POINTS_PER_CENTROID = 64
    KMEANS_STEPS = 10

    nprobe = 1
    """Inverted lists searched. More are, for a query that finds fewer than k points in them."""

    @property
    def exhaustive(self) -> Index | None:
        """On a GPU this index over all of its lists; on the CPU a flat index, which multiplies matrices, is quicker."""
        if not self._gpu:
            return None
        over_all_lists = copy(self)
        over_all_lists.exact, over_all_lists.spare, over_all_lists.nprobe = True, FaissIndex.spare, self.nlist
        return over_all_lists

    def _make(self, centered_Nd: NDArray[np.float32]) -> Any:
        num_points, dimensions = centered_Nd.shape
        self.nlist = int(4 * num_points**0.5)
        if self._gpu:
            self.nlist = min(self.nlist, GPU_MAX_NPROBE)  # any recall can be had: all lists can be searched
        index = self._faiss.IndexIVFFlat(self._faiss.IndexFlatL2(dimensions), dimensions, self.nlist)
        index.cp.max_points_per_centroid = self.POINTS_PER_CENTROID
        index.cp.min_points_per_centroid = 1
        index.cp.niter = self.KMEANS_STEPS
        clustering = _to_gpu(self._faiss, index.quantizer, 0) if self._gpu else None
        index.clustering_index = clustering  # which FAISS does not own
        index.train(centered_Nd)
        index.clustering_index = None
        return index

    def search(self, queries_qd: Points, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        centered_qd, nprobe = self._center(queries_qd), self.nprobe
        squared_qk, rows_qk = self._search_lists(centered_qd, k, nprobe)
        while len(short := np.flatnonzero(rows_qk[:, -1] < 0)):
            nprobe = min(2 * nprobe, self.nlist)
            squared_qk[short], rows_qk[short] = self._search_lists(centered_qd[short], k, nprobe)
        return squared_qk, rows_qk

    def _search_lists(self, centered_qd: NDArray[np.float32], k: int, nprobe: int) -> tuple[Any, Any]:
        return self._index.search(centered_qd, k, params=self._faiss.SearchParametersIVF(nprobe=nprobe))


def build_index(points_Nd: Points, backend: Backend = "auto", *, min_recall: float = 1.0) -> Index:
    """An index of the points; on the CPU it searches with as many threads as OMP_NUM_THREADS says.

    Args:
        points_Nd: Points; who they are is their row number.
        backend: As :func:`resolve_backend` takes it.
        min_recall: Below 1 an IVF index is built where FAISS searches at least ``IVFIndex.MIN_POINTS`` points; its
            ``nprobe`` must then be found by measuring.
    """
    chosen = resolve_backend(backend, points_Nd.shape[1])
    if chosen == "kdtree":
        return KDTreeIndex(points_Nd)
    kind = IVFIndex if min_recall < 1 and len(points_Nd) >= IVFIndex.MIN_POINTS else FaissIndex
    return kind(points_Nd, gpu=chosen == "faiss_gpu")


def resolve_backend(backend: Backend, dimensions: int = 2) -> Backend:
    """What "auto" stands for here: a KD-tree in few dimensions, else FAISS, on a GPU where it sees one."""
    if backend == "auto":
        cpu = exhaustive_on_cpu(dimensions)
        return "faiss_gpu" if cpu != "kdtree" and _num_gpus() else cpu
    if backend == "faiss_gpu" and not _num_gpus():
        raise SettingError("index.backend faiss_gpu must find a GPU and the package faiss-gpu, got none")
    return backend


def exhaustive_on_cpu(dimensions: int) -> Backend:
    """The CPU's backend that misses nothing and has no limit of k."""
    return "kdtree" if dimensions <= KDTREE_MAX_DIMENSIONS else "faiss_cpu"


def _squared_norms(points_nd: Points) -> NDArray[np.float64]:
    return np.einsum("nd,nd->n", points_nd, points_nd, dtype=np.float64)


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


def _to_all_gpus(faiss: Any, without_points: Any) -> Any:
    """An index on each GPU; points are dealt to them in equal parts and answers are merged."""
    parts = [_to_gpu(faiss, without_points, device) for device in range(_num_gpus())]
    if len(parts) == 1:
        return parts[0]
    shards = faiss.IndexShards(without_points.d, True, True)
    for part in parts:
        shards.add_shard(part)
    return shards


def _to_gpu(faiss: Any, index: Any, device: int) -> Any:
    """A copy of an index on one GPU."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(GPU_TEMP_BYTES)
    return faiss.index_cpu_to_gpu(resources, device, index)
