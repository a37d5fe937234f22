"""Work in numbered pieces on the cluster, by Ray Data tasks or actors: one small answer comes back from each.

Nothing per sample passes through the driver; what a piece makes, it writes to storage.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray.data
from ray.data.exceptions import ExecutionTimeoutError

from ldlva_dist.errors import ClusterError, DataError, LdlvaError, SettingError

MAX_BLOCKS = 1000
NO_PROGRESS_S = 3600.0
_ERRORS = {kind.exit_code: kind for kind in (SettingError, DataError, ClusterError)}


def run_pieces(work: Callable[[int], Any], numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield (number, what ``work(number)`` returned) for each piece as it is done, in no certain order.

    Args:
        work: Sent to the tasks; returns what JSON can say. A piece may run twice where a node is lost.
        numbers: Of the pieces.

    Raises:
        LdlvaError: the first that ``work`` raised.
        ClusterError: where no piece is done within an hour, or the cluster fails.
    """
    if numbers:
        yield from _answers(_items(numbers).map_batches(_Pieces(work), batch_size=None))


def run_pieces_on_actors(
    build: Callable[[], Callable[[int], Any]], numbers: Sequence[int], *, num_actors: int, resources: Mapping[str, Any]
) -> Iterator[tuple[int, Any]]:
    """The same with ``work = build()``, called once by each of ``num_actors`` actors with these resources."""
    if numbers:
        pool = ray.data.ActorPoolStrategy(size=min(num_actors, len(numbers)))
        mapped = _items(numbers).map_batches(
            _PieceActor, batch_size=None, compute=pool, fn_constructor_args=(build,), **resources
        )
        yield from _answers(mapped)


def _items(numbers: Sequence[int]) -> ray.data.Dataset:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    items = [{"number": number} for number in numbers]
    return ray.data.from_items(items, override_num_blocks=min(len(items), MAX_BLOCKS))


def _answers(dataset: ray.data.Dataset) -> Iterator[tuple[int, Any]]:
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    dataset.context.execution_no_progress_timeout_s = NO_PROGRESS_S
    try:
        for row in dataset.iter_rows():
            if row["code"]:
                raise _ERRORS.get(row["code"], LdlvaError)(row["answer"])
            yield int(row["number"]), json.loads(row["answer"])
    except ExecutionTimeoutError as error:
        raise ClusterError(f"no piece was done within {NO_PROGRESS_S:g} s") from error


@dataclass(frozen=True)
class _Pieces:
    """An error of ours travels as an answer: Ray would wrap it in two tracebacks."""

    work: Callable[[int], Any]

    def __call__(self, items: Any) -> Iterator[dict[str, Any]]:
        for number in items["number"].tolist():
            code = 0
            try:
                answer = json.dumps(self.work(number))
            except LdlvaError as error:
                answer, code = str(error), error.exit_code
            yield {"number": [number], "answer": [answer], "code": [code]}


class _PieceActor(_Pieces):
    """The same in an actor; what ``build`` raises ends the job."""

    def __init__(self, build: Callable[[], Callable[[int], Any]]) -> None:
        super().__init__(build())
