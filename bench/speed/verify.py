"""Claim: what every training looks at before it starts costs at most a second for a million rows, and its memory none.

``require_sound`` on a manifest of a million and of five million rows with a graph of K = 32 neighbours, of which a run
uses 8, and once more on the same rows in one row group, as another program may write them: CPU seconds for a million
rows, and by how much this process's private memory grows.

Goals: 1 s; at most 400 MiB whatever the number of rows.
"""

import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pyarrow.parquet as pq
import tyro

from bench.common import report, seal
from bench.speed.neighbors import uniform, write_dataset
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.graph import GraphInfo, part_ids, write_part, writing
from ldlva_dist.packing.verify import require_sound
from testing.processes import PrivatePeak

K_STORED, K = 32, 8
PART_ROWS = 1 << 18
LIMIT_S, LIMIT_MIB = 1.0, 400


def main(millions: tuple[int, ...] = (1, 5)) -> None:
    """Measure and print one JSON line."""
    figures: dict[str, dict[str, float]] = {}
    for count in millions:
        with tempfile.TemporaryDirectory() as folder:
            dataset = write_dataset(f"{folder}/set", uniform(count * 1_000_000))
            seal(dataset)
            write_graph(dataset)
            figures[f"{count} M"] = in_a_fresh_process(dataset, count)
            path = f"{dataset}/manifest.parquet"
            pq.write_table(pq.read_table(path), path, row_group_size=count * 1_000_000)
            figures[f"{count} M, one row group"] = in_a_fresh_process(dataset, count)
    ok = all(f["s_per_million"] <= LIMIT_S and f["mib"] <= LIMIT_MIB for f in figures.values())
    report("verify", ok=ok, **figures)


def in_a_fresh_process(dataset: str, millions: int) -> dict[str, float]:
    """One that has kept no memory of anything before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, dataset, millions).result()


def measure(dataset: str, millions: int) -> dict[str, float]:
    """Memory of a first look, and seconds of a second one, which has the files in memory."""
    memory = PrivatePeak(os.getpid())
    require_sound(Dataset.open(dataset), k=K)
    [grown] = memory.stop()
    cpu, wall = time.process_time(), time.monotonic()
    require_sound(Dataset.open(dataset), k=K)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {"s_per_million": cpu / millions, "wall_s": wall, "mib": grown / 2**20}


def write_graph(dataset: str) -> None:
    """A graph of the right form: the next 32 ids."""
    info = Dataset.open(dataset).info
    graph = GraphInfo(
        num_samples=info.num_train, num_neighbors=K_STORED, content_hash=info.content_hash, part_rows=PART_ROWS
    )
    with writing(dataset, graph) as checksums:
        for part, ids_n in enumerate(part_ids(graph)):
            ids_nK = (ids_n[:, None] + np.arange(1, K_STORED + 1)) % info.num_train
            squared_nK = np.broadcast_to(np.arange(K_STORED, dtype=np.float32), ids_nK.shape)
            checksums |= write_part(dataset, graph, part, ids_nK.astype(np.int32), squared_nK)


if __name__ == "__main__":
    tyro.cli(main)
