"""Batch prediction on the cluster: actors that hold the network write parts; see ``inference.parts``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import torch

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.inference.actors import Actors
from ldlva_dist.inference.face_model import Portable
from ldlva_dist.inference.parts import (
    PARTS,
    REJECTED,
    PredictionWork,
    count_rejected,
    finish_predictions,
    finished_parts,
    missing,
    open_parts,
    predict_part,
    write_rejected,
)
from ldlva_dist.runtime import placement
from ldlva_dist.runtime.pieces import run_pieces_on_actors
from ldlva_dist.runtime.unfinished import differing

GET_TIMEOUT_S = 300.0
Progress = Callable[[int, int], None]
"""Called with images done, and all of them."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a finished output holds."""

    rows: int
    """Images given."""
    rejected: int
    parts: int


def predict_images(
    model: Portable,
    work: PredictionWork,
    actors: Actors,
    *,
    max_rejected: float,
    progress: Progress = lambda done, total: None,
) -> Predicted:
    """Predict all images; resumes where an interrupted job with the same images and network stopped.

    Raises:
        SettingError: for an output that something else is in: answers for other images, or by another network.
        DataError: where there are no images, or more than the share ``max_rejected`` of them cannot be read; the list
            of them and the parts that are done are kept. Where images change meanwhile.
    """
    total = work.inputs.num_rows
    facts = {**model.facts(), "features": work.features, "part_rows": work.part_rows, "input": work.inputs.facts()}
    before = finished_parts(work.output)
    if before is not None:
        return _as_before(work, facts, before, max_rejected)
    if total == 0:
        raise DataError("there are no images to predict")
    num_actors, resources = placement.model_actors(
        actors.num_actors, cpus=actors.cpus_per_actor, gpus=actors.gpus_per_actor
    )
    model.build()  # what is wrong with it is said before an actor starts
    todo = open_parts(work, facts)
    done = total - sum(work.rows(part) for part in todo)
    rejected = count_rejected(work, todo)
    progress(done, total)
    build = partial(_Predictor, ray.put((model, work)), max(1, int(actors.cpus_per_actor)), actors.gpus_per_actor > 0)
    for part, more in run_pieces_on_actors(build, todo, num_actors=num_actors, resources=resources):
        done, rejected = done + work.rows(part), rejected + more
        progress(done, total)
        _check(work, rejected, max_rejected)
    _check(work, rejected, max_rejected)
    if work.inputs.facts() != facts["input"]:
        raise DataError(
            f"the images were changed while they were predicted: {work.output} has answers for old ones and new ones "
            "(remove it to begin anew)"
        )
    result = {"rows": total, "rejected": rejected, "parts": work.num_parts}
    finish_predictions(
        work, {**facts, **result, "name": model.description.name, "trained_on": dict(model.description.data)}
    )
    return Predicted(**result)


class _Predictor:
    """One actor's copy of the network."""

    def __init__(self, job: "ray.ObjectRef[tuple[Portable, PredictionWork]]", threads: int, use_gpu: bool) -> None:
        torch.set_num_threads(threads)
        portable, self._work = ray.get(job, timeout=GET_TIMEOUT_S)
        self._model = portable.build("cuda" if use_gpu else "cpu")

    def __call__(self, part: int) -> int:
        """How many images were rejected."""
        return predict_part(self._work, self._model, part)


def _check(work: PredictionWork, rejected: int, max_rejected: float) -> None:
    total = work.inputs.num_rows
    if rejected > max_rejected * total:
        raise DataError(
            _too_many(rejected, total, max_rejected, write_rejected(work)) + ", the parts that are done are kept"
        )


def _too_many(rejected: int, total: int, max_rejected: float, listed: str) -> str:
    return (
        f"{rejected} of {total} images cannot be read, more than --max-rejected {max_rejected:g} allows; "
        f"the list is {listed}"
    )


def _as_before(work: PredictionWork, facts: dict[str, Any], before: dict[str, Any], max_rejected: float) -> Predicted:
    """What a finished job of the same facts left."""
    if others := differing(before, facts):
        raise SettingError(
            f"--output must be new for another model, other images or other settings, got {work.output!r} with "
            f"predictions of something else ({', '.join(others)})"
        )
    counts = {name: before.get(name) for name in ("rows", "rejected", "parts")}
    if absent := missing(work) or [name for name, value in counts.items() if type(value) is not int]:
        raise DataError(f"{work.output} is damaged: it is finished, but lacks {PARTS} {absent[0]} (remove it)")
    done = Predicted(**{name: int(value or 0) for name, value in counts.items()})
    if done.rejected > max_rejected * done.rows:
        raise DataError(_too_many(done.rejected, done.rows, max_rejected, storage.join(work.output, REJECTED)))
    return done
