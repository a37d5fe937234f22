"""Valence-arousal for one's own images, as a new version of a data set: by a regressor on Ray Data, or from a table."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import ray
from ray.exceptions import GetTimeoutError

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.versions import Change, check_free, new_version, version_uri
from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.packing.annotate.pieces import AnnotationWork, Done, annotate_piece, open_pieces, stored_points
from ldlva_dist.packing.annotate.regressor import Regressor, model_fingerprint
from ldlva_dist.packing.annotate.va_table import PointFile, PointTable
from ldlva_dist.runtime import placement
from ldlva_dist.runtime.pieces import run_pieces_on_actors
from ldlva_dist.runtime.waiting import own_errors

T = TypeVar("T")
VERSION_TIMEOUT_S = 6 * 3600
Report = Callable[[int, int], None]
"""Called with the rows done and the rows of all splits."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The actors that hold a copy of the model each."""

    num_actors: int
    cpus: float
    gpus: float
    """GPUs of each actor; a share lets several use one GPU."""

    def __post_init__(self) -> None:
        if self.num_actors < 1 or self.cpus <= 0 or self.gpus < 0:
            raise SettingError(
                "--num-actors must be >= 1, --cpus-per-actor > 0 and --gpus-per-actor >= 0, "
                f"got {self.num_actors}, {self.cpus:g} and {self.gpus:g}"
            )


class Annotator:
    """Annotates pieces with one copy of the model."""

    def __init__(self, work: AnnotationWork, model: bytes, pool: Pool) -> None:
        threads = max(1, int(pool.cpus))
        self._work = work
        self._regressor = Regressor(model, work.model_name, work.settings, threads=threads, use_gpu=pool.gpus > 0)

    def __call__(self, piece: int) -> dict[str, Any]:
        """What was done."""
        return asdict(annotate_piece(self._work, piece, self._regressor))


def annotate_by_model(
    work: AnnotationWork, name: str, model: bytes, pool: Pool, *, standardize: bool, report: Report
) -> Dataset:
    """Write version ``name`` with the model's valence-arousal of all rows; resumes where an interrupted job stopped.

    Raises:
        SettingError: for a model that does not fit the settings, or a name that is taken; nothing was written.
        DataError: for points outside [-1, 1] or NaN, with their count and the first key; pieces without are kept.
    """
    check_free(version_uri(work.dataset, name))
    Regressor(model, work.model_name, work.settings, threads=1, use_gpu=False).check(work.batch_size)
    num_actors, resources = placement.model_actors(pool.num_actors, cpus=pool.cpus, gpus=pool.gpus)
    pieces, total = open_pieces(work, model), work.dataset.num_rows
    done = total - int(np.minimum(work.piece_rows, total - pieces * work.piece_rows).sum())
    report(done, total)
    build = partial(Annotator, work, model, pool)
    for _, answer in run_pieces_on_actors(build, pieces.tolist(), num_actors=num_actors, resources=resources):
        piece = Done(**answer)
        done += piece.rows
        _check(piece, done)
        report(done, total)
    change = Change(
        line=f"valence-arousal by {work.model_name}",
        columns=stored_points(work),
        source={"va_source": {"model": work.model_name, "sha256": model_fingerprint(model), "clip": work.clip}},
        scale="standard" if standardize else "raw",
        needs_va=True,
    )
    made = _in_a_task(new_version, work.dataset, name, change)
    storage.delete_folder(work.parts_uri)
    return made


def annotate_by_table(dataset: Dataset, name: str, table: PointFile, *, standardize: bool) -> tuple[Dataset, int]:
    """Write version ``name`` with the valence-arousal of a CSV.

    Returns:
        The version, and how many rows of the table no sample has.

    Raises:
        SettingError, DataError: as :class:`PointTable`, or for training rows that the table does not have.
    """
    check_free(version_uri(dataset, name))
    return _in_a_task(_join, dataset, name, table, standardize)


def _join(dataset: Dataset, name: str, table: PointFile, standardize: bool) -> tuple[Dataset, int]:
    points = PointTable(table)
    file = table.uri.rstrip("/").rpartition("/")[2]
    change = Change(
        line=f"valence-arousal of {file}",
        columns=points.columns,
        source={"va_source": {"table": file, "clip": table.clip}},
        scale="standard" if standardize else "raw",
        needs_va=True,
    )
    return new_version(dataset, name, change), points.num_unused


def _check(piece: Done, seen: int) -> None:
    """DataError for a piece with points that cannot be stored."""
    if piece.num_bad:
        raise DataError(
            f"the model's valence-arousal must be in [-1, 1], {piece.num_bad} of the {seen} points so far are not or "
            f"are NaN, the first is that of {piece.first_bad}; see --output-range, or --clip (NaN is never stored)"
        )


def _in_a_task(function: Callable[..., T], *arguments: Any) -> T:
    """Run a function on a node of the cluster, where it may hold what the driver must not."""
    try:
        ref = ray.remote(function).options(**placement.version_task()).remote(*arguments)
        with own_errors():
            return cast(T, ray.get(ref, timeout=VERSION_TIMEOUT_S))
    except GetTimeoutError as error:
        raise ClusterError(f"the version was not written in {VERSION_TIMEOUT_S // 3600} hours") from error
