"""Runs of a small training that something happens to, drawn by seed, and what became of each."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ldlva_dist import storage
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import LdlvaError
from ldlva_dist.index.graph import build_graph
from ldlva_dist.packing.passes.pack import pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.storage.s3.client import client
from testing.faults.checks import Numbers, find_faults, numbers_of
from testing.faults.cluster import FaultCluster, fault_cluster
from testing.faults.kinds import KINDS, Kind, Scene
from testing.s3_store import FaultProxy, Swift, use_store
from testing.tiny_runs import long_run
from testing.training_jobs import training_job, wait_until

CHECKPOINT_EVERY_STEPS, LONG_EPOCHS = 5, 40.0
LIMIT_S, REFERENCE_LIMIT_S, CLEAN_WITHIN_S = 180.0, 600.0, 30.0
"""The references are not what is looked at: a machine with other work may take its time."""
DISK_BYTES = 24 << 20
STORE_LIMIT_S = 24  # a call of the store is tried again for so long


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of one run."""

    seed: int
    kind: str
    step: int
    """The steps that were logged when it was struck."""
    struck: str
    seconds: float
    """From the first command to the end of the last one."""
    lost_s: float
    """More than the run that nothing happened to."""
    starts: int
    """Of the worker group, where the run is on a disk."""
    failures: list[str]
    """What is not as it must be; empty for a run that survived."""
    stood_s: float | None = None
    """The longest time from one step to the next, where that was looked at."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The run that nothing happened to."""

    numbers: Numbers
    seconds: float


class Harness:
    """A warm cluster, a data set, the reference runs, a small disk and a store, for one run after another."""

    def __init__(self, folder: Path, cluster: FaultCluster, dataset: str, kinds: Sequence[str]) -> None:
        """Runs will be of these kinds."""
        self._folder, self._cluster, self._dataset, self._kinds = folder, cluster, dataset, kinds
        self.references: dict[bool, Reference] = {}
        self.swift: Swift | None = None
        self.proxy: FaultProxy | None = None

    def reference(self, *, long: bool = False) -> Reference:
        """The run that nothing happens to, once."""
        if long not in self.references:
            config = self._config("long" if long else "straight", self._folder, long=long)
            began = time.monotonic()
            with training_job(config, self._folder) as job:
                code = job.wait(timeout=REFERENCE_LIMIT_S)
            seconds = time.monotonic() - began
            assert code == 0, f"exit code {code} of the run that nothing happened to: {self.said(config.name)[-3000:]}"
            self.references[long] = Reference(numbers=numbers_of(f"{self._folder}/{config.name}"), seconds=seconds)
            self._cluster.orphans(CLEAN_WITHIN_S)
        return self.references[long]

    def run(self, seed: int) -> Record:
        """One run, with the kind, the moment and the victim of a seed."""
        name = self._kinds[seed % len(self._kinds)]
        kind, random = KINDS[name], np.random.default_rng(seed)
        reference = self.reference(long=kind.long)
        place = {"disk": str(self._folder), "small disk": f"{self._folder}/small", "store": "s3://runs"}[kind.place]
        config = self._config(f"run-{seed:05d}", place, long=kind.long)
        if kind.place == "small disk":
            # Ray would try again on a disk that is still full.
            config = replace(config, placement=replace(config.placement, max_failures=0))
        steps = len(reference.numbers.losses)
        last = kind.until_step or (steps // 2 if kind.long else steps - 8)
        step = int(random.integers(kind.from_step, last))
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = str(int(kind.long))  # it costs 2 s of CPU
        began, struck, failures = time.monotonic(), "", list[str]()
        try:
            struck = self._strike(config, kind, step, random)
            seconds = time.monotonic() - began
            failures += find_faults(config, f"{place}/{config.name}", reference.numbers)
        except (AssertionError, LdlvaError) as error:
            seconds = time.monotonic() - began
            failures.append(str(error))
        except subprocess.TimeoutExpired:
            seconds = time.monotonic() - began
            failures.append(f"hangs: the job had not ended after {LIMIT_S:g} s")
        failures += [f"orphan: {what}" for what in self._cluster.orphans(CLEAN_WITHIN_S)]
        opened = Path(place, config.name, "tensorboard")
        starts = len(list(opened.iterdir())) if opened.is_dir() else 0
        if not failures:
            storage.delete_folder(f"{place}/{config.name}")
        return Record(
            seed=seed,
            kind=name,
            step=step,
            struck=struck,
            seconds=seconds,
            lost_s=seconds - reference.seconds,
            starts=starts,
            failures=failures,
        )

    def said(self, name: str) -> str:
        """What the job of a run said."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def _strike(self, config: RunConfig, kind: Kind, step: int, random: np.random.Generator) -> str:
        """Run, strike, and let the same command go on where the job ended; what was struck."""
        with training_job(config, self._folder) as job:
            scene = Scene(
                cluster=self._cluster,
                run_uri=f"{config.storage_path}/{config.name}",
                random=random,
                job=job,
                swift=self.swift,
                proxy=self.proxy,
            )
            with scene.later:
                wait_until(lambda: _steps_logged(scene.run_uri) >= step, job, f"step {step}")
                struck = kind.strike(scene)
                code = job.wait(timeout=LIMIT_S)
        assert code == kind.exit_code, f"exit code {code} instead of {kind.exit_code} after {struck}"
        said = self.said(config.name)
        assert re.search(kind.says, said, re.MULTILINE), f"not said after {struck}: {kind.says}; but {said[-3000:]}"
        if code:
            with training_job(config, self._folder) as job:
                code = job.wait(timeout=LIMIT_S)
            assert code == 0, f"exit code {code} of the same command after {struck}"
        return struck

    def _config(self, name: str, place: str | Path, *, long: bool) -> RunConfig:
        """The long run of the tests, with a checkpoint every few steps, two ranks on two nodes, and short limits."""
        config = long_run(self._dataset, place, name)
        epochs = LONG_EPOCHS if long else config.training.epochs
        return replace(
            config,
            neighbors=replace(config.neighbors, timeout_s=12.0),
            bank=replace(config.bank, num_shards=2),
            training=replace(
                config.training,
                epochs=epochs,
                checkpoint_every_steps=50 if long else CHECKPOINT_EVERY_STEPS,
                num_to_keep=2,
                log_ids=True,
                timeout_s=60.0,
            ),
            placement=replace(config.placement, cpus_per_worker=0.75, data_cpus_per_worker=0.25, max_failures=3),
        )


@contextmanager
def harness(kinds: Sequence[str], dataset: str | None = None, straight: str | None = None) -> Iterator[Harness]:
    """Everything that runs of these kinds need; gone after the block.

    Args:
        kinds: Names in :data:`KINDS`.
        dataset: A packed data set with its graph; drawn where there is none.
        straight: A finished ``long_run`` on it, which need then not be made; how long it took is not known.
    """
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        swift = proxy = None
        if any(KINDS[kind].place == "store" for kind in kinds):
            swift = stack.enter_context(Swift(folder / "swift"))
            proxy = stack.enter_context(FaultProxy(swift, folder / "proxy.log"))
            use_store(proxy.endpoint, LDLVA_S3_LIMIT_S=str(STORE_LIMIT_S))
            client().create_bucket(Bucket="runs")
        if any(KINDS[kind].place == "small disk" for kind in kinds):
            stack.enter_context(small_disk(folder / "small"))
        cluster = stack.enter_context(fault_cluster())
        made = Harness(folder, cluster, dataset or _draw_faces(folder), kinds)
        made.swift, made.proxy = swift, proxy
        if straight:
            made.references[False] = Reference(numbers=numbers_of(straight), seconds=0.0)
        yield made


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of a few MiB in memory; needs the right to mount, see :func:`can_mount`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def can_mount() -> bool:
    """Whether this process may mount a file system: as root, or under ``unshare --map-root-user --mount``."""
    with tempfile.TemporaryDirectory() as name:
        command = ["mount", "-t", "tmpfs", "none", name]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", name], check=True)
        return True


def _draw_faces(folder: Path) -> str:
    output = str(folder / "faces")
    source = FacesSource(train=300, test=60, pixels=48, flip_share=0.3, seed=0)
    pack(source, output, PackSettings(name="faces", class_names=REFERENCE_CLASSES))
    build_graph(Dataset.open(output), 4)
    return output


def _steps_logged(run_uri: str) -> int:
    return max((line["step"] for line in read_metrics(run_uri)), default=0)
