"""Runs on hosts that something happens to, drawn by seed, and what became of each."""

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from ldlva_dist import storage
from ldlva_dist.checkpoint.saved_files import SavedFiles, checkpoint_uri
from ldlva_dist.config import RunConfig, to_json
from ldlva_dist.errors import LdlvaError
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.storage.s3.client import client
from testing.faults.checks import Numbers, find_faults, numbers_of
from testing.faults.harness import Record
from testing.hosts import wrong_clock
from testing.hosts.cluster import BUCKET, FACES, WORKERS, HostCluster, host_cluster
from testing.hosts.kinds import EPOCHS, HOST_KINDS, JOB_LIMIT_S, MOST_FAILURES, NEEDS_REDIS, HostKind, HostScene
from testing.hosts.remote_store import SLOW
from testing.tiny_runs import long_run, tiny_run

CHECKPOINT_EVERY_STEPS, KEPT = 30, 2
LOW_RATE = 5e-4
STATUS_S, REFERENCE_LIMIT_S = 60.0, 1800.0
SENTENCE = re.compile(r"^(?:\x1b\[[0-9;]*m)*error: .+", re.MULTILINE)
CLOSE = 1e-5
"""Between runs of other numbers of workers: sums in another order, over 300 steps, are not compared closer."""


def host_run(
    name: str, *, epochs: float = EPOCHS, workers: int | tuple[int, int] = 2, num_to_keep: int = KEPT
) -> RunConfig:
    """A run of some ten steps an epoch whose ranks have a host each, with short limits.

    One whose number of workers may change computes the same on any number but for rounding, which a low learning rate
    keeps from growing.
    """
    config = long_run(FACES, f"{BUCKET}/runs", name)
    if not isinstance(workers, int):
        config = tiny_run(FACES, f"{BUCKET}/runs", name)
        config = replace(config, optim=replace(config.optim, lr=LOW_RATE))
    return replace(
        config,
        neighbors=replace(config.neighbors, timeout_s=60.0),
        bank=replace(config.bank, num_shards=2),
        training=replace(
            config.training,
            epochs=epochs,
            evaluate_every_epochs=epochs,
            checkpoint_every_steps=CHECKPOINT_EVERY_STEPS,
            num_to_keep=num_to_keep,
            log_ids=True,
            timeout_s=300.0,
            tracker="none",
        ),
        placement=replace(
            config.placement,
            num_workers=workers,
            cpus_per_worker=0.75,
            data_cpus_per_worker=0.25,
            max_failures=MOST_FAILURES,
            elastic_resize_monitor_interval_s=5.0,
        ),
    )


class HostHarness:
    """Hosts, a data set in their store and the run that nothing happens to, for one run after another."""

    def __init__(self, cluster: HostCluster, kinds: Sequence[str]) -> None:
        """Runs will be of these kinds."""
        self.cluster, self._kinds = cluster, kinds
        self._references: dict[tuple[float, int | tuple[int, int]], tuple[Numbers, float]] = {}

    def reference(self, epochs: float = EPOCHS, workers: int | tuple[int, int] = 2) -> tuple[Numbers, float]:
        """Numbers and seconds of the run that nothing happens to, once for each length and number of workers."""
        config = host_run(f"straight-{len(self._references)}", epochs=epochs, workers=workers)
        key = epochs, workers
        if key not in self._references:
            began = time.monotonic()
            self.straight(config)
            with self.cluster.hosts["client"].network():
                self._references[key] = numbers_of(config.uri), time.monotonic() - began
        return self._references[key]

    def straight(self, config: RunConfig) -> None:
        """A run that nothing happens to, or the rest of one."""
        job = self.cluster.submit_run(config)
        code = job.wait(REFERENCE_LIMIT_S)
        assert code == 0, f"exit code {code} of {config.name}: {job.said[-3000:]}"
        self.cluster.orphans()

    def run(self, seed: int) -> Record:
        """One run, with the kind, the moment and the victim of a seed."""
        name = self._kinds[seed % len(self._kinds)]
        kind, random = HOST_KINDS[name], np.random.default_rng(seed)
        config = host_run(f"run-{seed:05d}", epochs=kind.epochs, workers=kind.workers)
        numbers, straight_s = self.reference(kind.epochs, kind.workers)
        config = replace(config, placement=replace(config.placement, max_failures=kind.max_failures))
        step = CHECKPOINT_EVERY_STEPS * int(random.integers(1, kind.last_checkpoint + 1))
        if kind.without:
            self.cluster.power_off(kind.without)
        began, struck, stood_s, failures = time.monotonic(), "", None, list[str]()
        try:
            struck, struck_at = self._strike(config, kind, step, random)
            stood_s = self._stood_s(config, struck_at)
            failures += self._find_faults(config, numbers, is_fixed=isinstance(kind.workers, int))
        except (AssertionError, LdlvaError) as error:
            failures.append(str(error))
        except subprocess.TimeoutExpired as error:
            failures.append(f"hangs: not ended after {error.timeout:g} s")
        seconds = time.monotonic() - began
        failures += [f"orphan: {what}" for what in self.cluster.orphans()]
        if failures:
            self._mend()
        return Record(
            seed=seed,
            kind=name,
            step=step,
            struck=struck,
            seconds=seconds,
            lost_s=seconds - straight_s,
            starts=0,
            stood_s=stood_s,
            failures=failures,
        )

    def said(self, name: str) -> str:
        """What the jobs of a run said to who submitted them."""
        log = self.cluster.folder / f"{name}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def check_resumes(self, *, slow: bool, hosts: int = 2, steps: Sequence[int] | None = None) -> list[str]:
        """Resume a copy of the straight run from each of its checkpoints; one sentence for each that ends otherwise.

        Args:
            slow: Whether the store answers 50 ms later meanwhile.
            hosts: Of the run; a rank has one to itself.
            steps: Those of the checkpoints to begin with; None: all but the last.
        """
        numbers, _ = self.reference(workers=hosts)
        every, last = CHECKPOINT_EVERY_STEPS, len(numbers.losses)
        whole = host_run("whole", workers=hosts, num_to_keep=last // every)
        self.straight(whole)
        found = []
        if slow:
            self.cluster.store.set_faults(*SLOW)
        for step in steps if steps is not None else range(every, last, every):
            config = replace(whole, name=f"from-{step:03d}")
            with self.cluster.hosts["client"].network():
                _copy_until(whole.uri, config.uri, step, last)
                storage.write_bytes(f"{config.uri}/config.json", to_json(config).encode())
            self.straight(config)
            with self.cluster.hosts["client"].network():
                found += [f"from step {step}: {name} differs" for name in differing(whole.uri, config.uri, last)]
        self.cluster.store.set_faults()
        return found

    def _strike(self, config: RunConfig, kind: HostKind, step: int, random: np.random.Generator) -> tuple[str, float]:
        """Run, strike, and let the same command go on where the job ended; what was struck, and at what Unix time."""
        job = self.cluster.submit_run(config) if kind.is_submitted else self.cluster.start_run(config, WORKERS[-1])
        scene = HostScene(cluster=self.cluster, config=config, job=job, random=random)
        with scene.later:
            self.cluster.wait_for_checkpoint(config, step, job)
            struck_at, struck = time.time(), kind.strike(scene)
            code = job.wait(JOB_LIMIT_S)
        missing = [sentence for sentence in kind.says if not re.search(sentence, job.said, re.MULTILINE)]
        assert not missing, f"not said after {struck}: {missing}; but {job.said[-3000:]}"
        expected = 0 if kind.exit_code == 0 else 1 if kind.is_submitted else kind.exit_code
        assert code == expected, f"exit code {code} after {struck}: {job.said[-2000:]}"
        if kind.exit_code is not None:
            self._require_outcome(config, kind.exit_code)
            assert "Traceback" not in job.said, f"a traceback after {struck}: {job.said[-3000:]}"
            assert kind.exit_code == 0 or SENTENCE.search(job.said), f"no sentence after {struck}: {job.said[-2000:]}"
        if kind.exit_code != 0:
            self.straight(config)
        return struck, struck_at

    def _stood_s(self, config: RunConfig, struck_at: float) -> float:
        """The longest time without a step since the strike, as the run itself wrote it down."""
        with self.cluster.hosts["client"].network():
            since = [line["time"] for line in read_metrics(config.uri) if line["time"] > struck_at]
        return max((later - before for before, later in pairwise([struck_at, *since])), default=0.0)

    def _require_outcome(self, config: RunConfig, exit_code: int) -> None:
        code, said = self.cluster.run_on("client", ["python", "jobs/status.py", "--run", config.uri], STATUS_S)
        assert code == exit_code, f"jobs/status.py ended with {code} instead of {exit_code}: {said}"

    def _find_faults(self, config: RunConfig, numbers: Numbers, *, is_fixed: bool) -> list[str]:
        with self.cluster.hosts["client"].network():
            if is_fixed:
                return find_faults(config, config.uri, numbers)
            own = numbers_of(config.uri)
            np.testing.assert_allclose(own.losses, numbers.losses, atol=CLOSE, rtol=0)
            return find_faults(config, config.uri, own)

    def _mend(self) -> None:
        """Begin anew with all hosts but the store, so that one failure is not that of the next run too."""
        self.cluster.store.set_faults()
        for name in ("head", *WORKERS, "client"):
            if name in self.cluster.hosts:
                self.cluster.power_off(name)
            self.cluster.start_host(name)
        self.cluster.start_nodes("head", *WORKERS)


@contextmanager
def host_harness(kinds: Sequence[str]) -> Iterator[HostHarness]:
    """Hosts with a cluster and a data set, for runs of these kinds; gone after the block.

    Args:
        kinds: Names in :data:`HOST_KINDS`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hosts-", ignore_cleanup_errors=True) as folder,
        host_cluster(Path(folder)) as cluster,
    ):
        if NEEDS_REDIS in kinds:
            cluster.start_redis()
        cluster.draw_faces()
        cluster.start_nodes("head", *WORKERS)
        yield HostHarness(cluster, kinds)


def kinds_here() -> list[str]:
    """The kinds that this machine allows, on one cluster."""
    left_out = {NEEDS_REDIS} | (set() if wrong_clock.can_build() else {"clock wrong"})
    return [name for name in HOST_KINDS if name not in left_out]


def differing(one: str, other: str, step: int) -> list[str]:
    """Files of the checkpoints of a step that are not the same in two runs, their settings aside."""
    here, there = (SavedFiles.open(checkpoint_uri(uri, step)) for uri in (one, other))
    assert here.names() == there.names(), "the checkpoints have the same files"
    return [name for name in here.names() if name != "config.json" and here.read(name) != there.read(name)]


def _copy_until(source: str, target: str, step: int, last: int) -> None:
    """Copy a run without its checkpoints of steps after ``step``; they are known by their folders."""
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    to = target.removeprefix(f"s3://{bucket}/")
    later = [f"step-{number:08d}/" for number in range(step + 1, last + 1)]
    pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    for key in [entry["Key"] for page in pages for entry in page.get("Contents", [])]:
        name = key.removeprefix(f"{prefix}/")
        if name != "config.json" and not name.startswith((*later, ".")):
            client().copy_object(Bucket=bucket, Key=f"{to}/{name}", CopySource={"Bucket": bucket, "Key": key})
