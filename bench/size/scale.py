"""Claim: with AffectNet's number of samples on three nodes nothing grows while a run goes on.

450,000 rows (a synthetic manifest over shards of repeated 24 px JPEGs), the graph, and a bank of three shards spread
over three simulated nodes (ray.cluster_utils.Cluster on this machine): launch.fit trains 300 steps with two workers,
through stream, bank and table as any run does. The network is a ResNet-10 of width 16, so V = 128; ``--width 64`` has V
= 512. The first third of the steps (without the first tenth, the start) is compared with the last: samples per second,
memory per role (without shared pages: those of the object store come into each process as it uses them), bytes of
lookups and writes per step. Goals: speed of the last third at least 0.9 x, memory of bank, workers and driver at most
1.05 x, bytes at most 1.01 x the first's; each shard on a node of its own. The bank starts from labels, which writes all
of its pages: those of an empty one come into memory as rows are first written.
"""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import psutil
import pyarrow as pa
import ray
import simplejpeg
import tyro
from isal.isal_zlib import crc32
from ray.cluster_utils import Cluster

from bench.common import report, seal
from ldlva_dist import storage
from ldlva_dist.bank.service import find_service
from ldlva_dist.config import (
    BankConfig,
    DataConfig,
    ModelConfig,
    NeighborConfig,
    OptimConfig,
    PlacementConfig,
    RunConfig,
    TrainingConfig,
)
from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.graph import build_graph
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.run import launch

CLASSES, SHARDS, NODES, KINDS, PIXELS = 8, 18, 3, 64, 24
ROLES = {"ray::Bank": "bank", "ray::RayTrainWorker": "workers", "raylet": "raylets", "gcs_server": "gcs"}
GROWTH_OF = ("bank", "workers", "driver")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is run."""

    rows: int = 450_000
    steps: int = 300
    batch_size: int = 32
    width: int = 16
    num_workers: int = 2


@dataclass
class Watch:
    """Memory of the processes below this one, by role, now and then."""

    samples: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    """Last logged step, bytes by role."""
    shard_parents: set[int] = field(default_factory=set)
    """Processes of the nodes that the bank's shards run on."""

    def look(self, step: int) -> None:
        """One sample."""
        memory: dict[str, int] = {}
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            try:
                line, used = " ".join(process.cmdline()[:1]), process.memory_info()
            except psutil.NoSuchProcess:
                continue
            role = next((role for name, role in ROLES.items() if name in line), "others")
            role = "driver" if process.pid == psutil.Process().pid else role
            memory[role] = memory.get(role, 0) + used.rss - used.shared
        self.samples.append((step, memory))

    @contextmanager
    def watching(self, run_uri: str, every_s: float = 0.5) -> Iterator[None]:
        """Look until the block is left."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(every_s):
                lines = read_metrics(run_uri) if storage.exists(f"{run_uri}/metrics.jsonl") else []
                self.look(lines[-1]["step"] if lines else 0)
                if lines and not self.shard_parents:
                    facts = ray.get([shard.facts.remote() for shard in find_service(run_uri).shards], timeout=60)
                    self.shard_parents = {psutil.Process(fact.pid).ppid() for fact in facts}

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def mean(self, first: int, last: int) -> dict[str, float]:
        """MiB by role between two steps."""
        inside = [memory for step, memory in self.samples if first <= step <= last]
        roles = sorted({role for memory in inside for role in memory})
        return {role: float(np.mean([memory.get(role, 0) for memory in inside])) / 2**20 for role in roles}


def main(arguments: Arguments) -> None:
    """Train, and print one JSON line."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder, nodes():
        dataset = synthetic_dataset(f"{folder}/data", arguments.rows)
        build_graph(Dataset.open(dataset), 8)
        config = run_config(arguments, dataset, f"{folder}/runs")
        with watch.watching(f"{folder}/runs/scale"):
            result = launch.fit(config)
        lines = read_metrics(result.run_uri)
    third = arguments.steps / 3
    parts = [
        [line for line in lines if low < line["step"] <= high]
        for low, high in ((arguments.steps / 10, third), (2 * third, arguments.steps))
    ]
    names = "samples_per_second", "lookup_bytes_per_step", "write_bytes_per_step", "lookup_ms", "lookup_wait_share"
    figures = {name: [float(np.mean([line[name] for line in part])) for part in parts] for name in names}
    memory = [watch.mean(part[0]["step"], part[-1]["step"]) for part in parts]
    growth = {role: memory[1][role] / memory[0][role] for role in memory[1] if role in memory[0]}
    slower = figures["samples_per_second"][1] / figures["samples_per_second"][0]
    more_bytes = [
        figures[f"{name}_bytes_per_step"][1] / figures[f"{name}_bytes_per_step"][0] for name in ("lookup", "write")
    ]
    report(
        "scale",
        ok=slower >= 0.9
        and all(growth[role] <= 1.05 for role in GROWTH_OF)
        and max(more_bytes) <= 1.01
        and len(watch.shard_parents) == NODES,
        rows=arguments.rows,
        steps=arguments.steps,
        width=arguments.width,
        nodes_with_a_shard=len(watch.shard_parents),
        first_and_last_third=figures,
        memory_mib=memory,
        memory_growth=growth,
    )


@contextmanager
def nodes() -> Iterator[None]:
    """Three simulated nodes of two CPUs each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def run_config(arguments: Arguments, dataset: str, runs: str) -> RunConfig:
    """A run as a user would start it, with a log line every ten steps and one checkpoint."""
    return RunConfig(
        name="scale",
        storage_path=runs,
        data=DataConfig(dataset=dataset, batch_size=arguments.batch_size, image_size=PIXELS),
        model=ModelConfig(name="resnet10", width=arguments.width, stem="small"),
        neighbors=NeighborConfig(num_neighbors=8),
        bank=BankConfig(num_shards=NODES, warm_start="labels"),
        optim=OptimConfig(name="sgd", lr=0.01, schedule="constant"),
        training=TrainingConfig(
            epochs=arguments.steps * arguments.batch_size / arguments.rows,
            evaluate_every_epochs=99,
            log_every_steps=10,
        ),
        placement=PlacementConfig(num_workers=arguments.num_workers, max_failures=0),
    )


def synthetic_dataset(folder: str, rows: int) -> str:
    """Shards of a few images that repeat, and a manifest as make_shards writes it; without tar headers."""
    random = np.random.default_rng(0)
    looks = random.integers(0, 256, (KINDS, 4, 4, 3), dtype=np.uint8).repeat(PIXELS // 4, 1).repeat(PIXELS // 4, 2)
    images = [simplejpeg.encode_jpeg(np.ascontiguousarray(look), quality=90) for look in looks]
    kind = np.arange(rows) % KINDS
    shard = np.arange(rows) * SHARDS // rows
    size = np.array([len(image) for image in images])[kind]
    first = np.searchsorted(shard, np.arange(SHARDS + 1))
    ends = np.concatenate([np.cumsum(size[a:b]) for a, b in pairwise(first)])
    storage.make_folder(folder)
    infos = []
    for i, (a, b) in enumerate(pairwise(first.tolist())):
        name = f"train-{i:06d}.tar"
        storage.write_bytes(f"{folder}/{name}", b"".join(images[k] for k in kind[a:b]))
        infos.append(manifest.ShardInfo(name=name, split="train", first_id=a, rows=b - a, bytes=int(size[a:b].sum())))
    label, va = random.integers(0, CLASSES, rows), random.uniform(-1, 1, (2, rows)).astype(np.float32)
    columns = {
        "id": np.arange(rows),
        "key": np.char.mod("s%d", np.arange(rows)),
        "shard": shard.astype(np.int32),
        "offset": ends - size,
        "size": size.astype(np.int32),
        "checksum": np.array([crc32(image) for image in images], dtype=np.uint32)[kind],
        "label": label.astype(np.int16),
        "valence": va[0],
        "arousal": va[1],
        "split": pa.array(["train"]).dictionary_encode().take(pa.array(np.zeros(rows, np.int32))),
    }
    manifest.write_manifest(folder, pa.table(columns))
    splits = {"train": manifest.SplitInfo(first_id=0, rows=rows)}
    splits |= {name: manifest.SplitInfo(first_id=rows, rows=0) for name in ("holdout", "test")}
    info = manifest.DatasetInfo(
        name="synthetic",
        class_names=tuple("abcdefgh"),
        splits=splits,
        shards=tuple(infos),
        has_valence_arousal=True,
        content_hash="synthetic",
        class_counts={},
    )
    manifest.write_info(folder, info)
    seal(folder)
    return folder


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
