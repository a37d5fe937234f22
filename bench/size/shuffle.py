"""Claim: the plan mixes a set that was packed in class order as well as a perfect shuffle does, at few ranged reads.

450,000 rows of 8 classes of AffectNet's proportions, sorted by class; nothing is read. Compared with a perfect shuffle
and with webdataset's way: shards in random order, then a buffer of 1,000 rows. Per way, over one epoch:

- mix: total variation distance between the classes of a batch and those of the set, divided by a perfect shuffle's;
- drift: the same of 32 consecutive batches together, where a shuffle in windows fails;
- ids: lag-1 autocorrelation of the mean id of a batch, and its deviation divided by a perfect shuffle's;
- near: share of a batch's rows with a row of the batch before from within 256 ids (faces of one person, maybe).

Costs of the plan are computed for images of 20 kB and an object store that answers a request after 30 ms, then sends 50
MB/s on each of 8 connections (assumed, not measured). Goal: mix at most 1.0 and drift at most 1.1 times the perfect
shuffle's.
"""

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from bench.common import report
from ldlva_dist.config import DataConfig
from ldlva_dist.stream.plan import Plan

COUNTS = np.array([0.261, 0.467, 0.088, 0.049, 0.022, 0.013, 0.086, 0.014])
SHARDS, BUFFER, BATCHES_OF_DRIFT, NEAR = 64, 1000, 32, 256
IMAGE_BYTES, REQUEST_S, BYTES_PER_S, CONNECTIONS = 20_000, 0.030, 50e6, 8
MIX_GOAL, DRIFT_GOAL = 1.0, 1.1


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is mixed."""

    rows: int = 450_000
    batch_size: int = 64
    chunk_rows: tuple[int, ...] = (32, 64, 128, 256, 1024)
    lanes: tuple[int, ...] = (16, 32)
    """Besides the plan's own, with its own chunk_rows."""


@dataclass(frozen=True)
class Lanes(Plan):
    """A plan with another number of lanes."""

    lanes: int = 1

    @property
    def num_lanes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """L."""
        return self.lanes


def main(arguments: Arguments) -> None:
    """Mix, compare, and print one JSON line."""
    began = time.monotonic()
    rows, batch = arguments.rows, arguments.batch_size
    labels = np.searchsorted(np.cumsum(COUNTS) / COUNTS.sum(), np.arange(rows) / rows, side="right")
    shard_rows = tuple(np.diff(np.arange(SHARDS + 1) * rows // SHARDS).tolist())
    default = Plan(shard_rows, seed=0, batch_size=batch, chunk_rows=DataConfig().chunk_rows)
    orders = {f"chunks of {c}": ids_of(replace(default, chunk_rows=c)) for c in arguments.chunk_rows}
    for lanes in arguments.lanes:
        orders[f"{lanes} lanes"] = ids_of(Lanes(shard_rows, 0, batch, default.chunk_rows, lanes=lanes))
    orders["default"] = ids_of(default)
    generator = np.random.default_rng(0)
    orders["webdataset"] = shard_windows(shard_rows, generator)
    perfect = quality(generator.permutation(rows), labels, batch)
    found = {name: relative(quality(ids, labels, batch), perfect) for name, ids in orders.items()}
    report(
        "shuffle",
        ok=found["default"]["mix"] <= MIX_GOAL and found["default"]["drift"] <= DRIFT_GOAL,
        default={"chunk_rows": default.chunk_rows, "lanes": default.num_lanes},
        perfect=perfect,
        relative=found,
        cost={f"chunks of {c}": cost(c, default.num_lanes) for c in arguments.chunk_rows},
        seconds=time.monotonic() - began,
    )


def ids_of(plan: Plan) -> NDArray[np.int64]:
    """[steps x B] the ids of the first epoch's whole batches, batch by batch."""
    supersteps = plan.steps_for(1) // plan.steps_per_superstep
    ids = np.empty((supersteps, plan.steps_per_superstep, plan.num_lanes, plan.rows_per_step), dtype=np.int64)
    for superstep in range(supersteps):
        for lane in range(plan.num_lanes):
            runs, order = plan.window(lane, superstep)
            window = np.concatenate([run.first_id + np.arange(run.rows) for run in runs])
            ids[superstep, :, lane] = window[order].reshape(-1, plan.rows_per_step)
    return ids.ravel()


def shard_windows(shard_rows: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.int64]:
    """Ids as webdataset's ``shuffle(1000)`` gives them: shards in random order, each next row drawn from the buffer."""
    begins = np.cumsum(shard_rows) - shard_rows
    order = generator.permutation(len(shard_rows))
    arriving = np.concatenate([begins[shard] + np.arange(shard_rows[shard]) for shard in order])
    buffer, out = arriving[:BUFFER].copy(), []
    places = generator.integers(BUFFER, size=len(arriving) - BUFFER)
    for place, row in zip(places.tolist(), arriving[BUFFER:].tolist(), strict=True):
        out.append(buffer[place])
        buffer[place] = row
    return np.concatenate([np.array(out), generator.permutation(buffer)])


def quality(ids: NDArray[np.int64], labels: NDArray[np.int64], batch: int) -> dict[str, float]:
    """See the head of this file; not yet divided by the perfect shuffle's."""
    ids_tB = ids[: len(ids) // batch * batch].reshape(-1, batch)
    share_C = np.bincount(labels) / len(labels)
    count_tC = np.stack([(labels[ids_tB] == c).sum(axis=1) for c in range(len(share_C))], axis=1)
    long_tC = count_tC[: len(count_tC) // BATCHES_OF_DRIFT * BATCHES_OF_DRIFT]
    long_tC = long_tC.reshape(-1, BATCHES_OF_DRIFT, len(share_C)).mean(axis=1)
    mean_t = ids_tB.mean(axis=1)
    sorted_tB = np.sort(ids_tB, axis=1)
    near = [_near(after, before) for before, after in pairwise(sorted_tB[:501])]
    return {
        "mix": float(np.abs(count_tC / batch - share_C).sum(axis=1).mean() / 2),
        "drift": float(np.abs(long_tC / batch - share_C).sum(axis=1).mean() / 2),
        "ids_autocorrelation": float(np.corrcoef(mean_t[:-1], mean_t[1:])[0, 1]),
        "ids_deviation": float(mean_t.std()),
        "near": float(np.mean(near)),
    }


def _near(after: NDArray[np.int64], before: NDArray[np.int64]) -> float:
    place = np.searchsorted(before, after)
    left, right = before[np.maximum(place - 1, 0)], before[np.minimum(place, len(before) - 1)]
    return float((np.minimum(np.abs(after - left), np.abs(after - right)) <= NEAR).mean())


def relative(found: dict[str, float], perfect: dict[str, float]) -> dict[str, float]:
    """Divided by the perfect shuffle's; autocorrelation and near as they are."""
    return {
        name: value / perfect[name] if name in ("mix", "drift", "ids_deviation") else value
        for name, value in found.items()
    }


def cost(chunk_rows: int, lanes: int) -> dict[str, Any]:
    """What chunks of a size ask of the store and of memory, for one rank that serves all lanes."""
    read_rows = chunk_rows // 2  # a piece of the plan
    seconds = REQUEST_S + read_rows * IMAGE_BYTES / BYTES_PER_S
    return {
        "reads_per_sample": 1 / read_rows,
        "kb_per_read": read_rows * IMAGE_BYTES / 1e3,
        "samples_per_second_of_one_task": CONNECTIONS * read_rows / seconds,
        "mb_in_a_window": chunk_rows * lanes * IMAGE_BYTES / 1e6,
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
