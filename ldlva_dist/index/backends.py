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
    def exhaustive(self) -> "Index":
        """An exact index of the same points that takes no memory of its own."""
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
        self._faiss = _faiss()
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
    def exhaustive(self) -> Index:
        return self

    def error(self, queries_qd: Points, squared_q: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._rounding * np.maximum(_squared_norms(self._center(queries_qd)), self._largest)

    def search(self, queries_qd: Points, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self._index.search(self._center(queries_qd), k)

    def _make(self, centered_Nd: NDArray[np.float32]) -> Any:
        """FAISS's index on the CPU, trained where it must be, and without points."""
        return self._faiss.IndexFlatL2(centered_Nd.shape[1])

    def _center(self, points_nd: Points) -> NDArray[np.float32]:
        return np.ascontiguousarray(points_nd.astype(np.float32) - self._center_d)


class ApproximateIndex(FaissIndex):
    """Looks at a part of the points, the larger the more effort a search makes; with the most effort, at all of them.

    What effort finds enough must be measured, see :meth:`client.IndexClient.build_from_rows`.
    """

    MIN_POINTS = 10_000
    """Fewer are compared with everything."""

    most_effort: int

    def __init__(self, points_Nd: Points, *, gpu: bool = False) -> None:
        super().__init__(points_Nd, gpu=gpu)
        self.set_effort(1)

    def set_effort(self, effort: int) -> None:
        """How much of the points a search looks at from now on; from 1 up, above ``most_effort`` nothing grows."""
        self.effort = min(effort, self.most_effort)
        self.exact = self.effort == self.most_effort
        self.spare = FaissIndex.spare if self.exact else 1

    @property
    def exhaustive(self) -> Index:
        whole = copy(self)
        whole.set_effort(self.most_effort)
        return whole

    def search(self, queries_qd: Points, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        centered_qd, effort = self._center(queries_qd), self.effort
        squared_qk, rows_qk = self._search_with(effort, centered_qd, k)
        while len(short := np.flatnonzero(rows_qk[:, -1] < 0)):  # fewer than k points were found
            effort = min(2 * effort, self.most_effort)
            squared_qk[short], rows_qk[short] = self._search_with(effort, centered_qd[short], k)
        return squared_qk, rows_qk

    def _search_with(self, effort: int, centered_qd: NDArray[np.float32], k: int) -> tuple[Any, Any]:
        raise NotImplementedError


class HNSWIndex(ApproximateIndex):
    """FAISS's HNSW, on the CPU: a search walks along links between points and keeps the ``efSearch`` nearest it met.

    Effort is efSearch in units of ``CANDIDATES``. With the most of it the links are left out: a flat search of the same
    memory. So points that no link leads to are found in the end, which no efSearch does. FAISS lays the links on any
    number of threads as on one.
    """

    LINKS = 16
    """M: twice as many lead from each point. With FAISS's usual 32, index and graph cost 1.3 to 1.8 times as much."""
    LINK_BYTES = 4 * (2 * LINKS + 4)
    """What links and their bookkeeping take for each point: twice M and M now and then, of 4 bytes, and 16."""
    CANDIDATES = 16
    LARGEST_PART = 64
    """A search that keeps more than a 64th of the points takes longer than a flat one, which multiplies matrices."""

    def _make(self, centered_Nd: NDArray[np.float32]) -> Any:
        num_points, dimensions = centered_Nd.shape
        self.most_effort = max(1, num_points // self.LARGEST_PART // self.CANDIDATES)
        return self._faiss.IndexHNSWFlat(dimensions, self.LINKS)

    def _search_with(self, effort: int, centered_qd: NDArray[np.float32], k: int) -> tuple[Any, Any]:
        if effort == self.most_effort:
            return self._index.storage.search(centered_qd, k)
        parameters = self._faiss.SearchParametersHNSW(efSearch=self.CANDIDATES * effort)
        return self._index.search(centered_qd, k, params=parameters)


class IVFIndex(ApproximateIndex):
    """FAISS's IVF, over all GPUs of the process: a search compares the ``nprobe`` inverted lists nearest to a query.

    Effort is nprobe, the most of it nlist.
    """

    POINTS_PER_CENTROID = 64
    KMEANS_STEPS = 10

    def __init__(self, points_Nd: Points) -> None:
        super().__init__(points_Nd, gpu=True)

    def _make(self, centered_Nd: NDArray[np.float32]) -> Any:
        num_points, dimensions = centered_Nd.shape
        self.most_effort = min(int(4 * num_points**0.5), GPU_MAX_NPROBE)  # any recall can be had
        index = self._faiss.IndexIVFFlat(self._faiss.IndexFlatL2(dimensions), dimensions, self.most_effort)
        index.cp.max_points_per_centroid = self.POINTS_PER_CENTROID
        index.cp.min_points_per_centroid = 1
        index.cp.niter = self.KMEANS_STEPS
        clustering = _to_gpu(self._faiss, index.quantizer, 0)
        index.clustering_index = clustering  # which FAISS does not own
        index.train(centered_Nd)
        index.clustering_index = None
        return index

    def _search_with(self, effort: int, centered_qd: NDArray[np.float32], k: int) -> tuple[Any, Any]:
        return self._index.search(centered_qd, k, params=self._faiss.SearchParametersIVF(nprobe=effort))


def build_index(points_Nd: Points, backend: Backend = "auto", *, min_recall: float = 1.0) -> Index:
    """An index of the points; on the CPU it searches with as many threads as OMP_NUM_THREADS says.

    Args:
        points_Nd: Points; who they are is their row number.
        backend: As :func:`resolve_backend` takes it.
        min_recall: Below 1 an approximate index is built where FAISS searches at least
            ``ApproximateIndex.MIN_POINTS`` points: HNSW on the CPU, IVF on GPUs.
    """
    chosen = resolve_backend(backend, points_Nd.shape[1])
    if chosen == "kdtree":
        return KDTreeIndex(points_Nd)
    gpu = chosen == "faiss_gpu"
    if min_recall == 1 or len(points_Nd) < ApproximateIndex.MIN_POINTS:
        return FaissIndex(points_Nd, gpu=gpu)
    return IVFIndex(points_Nd) if gpu else HNSWIndex(points_Nd)


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
