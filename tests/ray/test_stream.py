"""The stream against the plan: every rank's ids, images that depend on nobody, resumed equals uninterrupted."""

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import ClusterError, DataError
from ldlva_dist.messages import Batch
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES
from ldlva_dist.stream import pipeline
from ldlva_dist.stream.class_balance import Balance, class_quotas
from ldlva_dist.stream.plan import Plan
from ldlva_dist.stream.quarantine import read_quarantine
from testing.clusters.shared_cluster import taken

pytestmark = pytest.mark.usefixtures("cluster")
IMAGES = pipeline.ImageSettings(size=48, channels=3, resize="antialias", flip=True, pad=4, erase_probability=0.5)
STEPS = 14  # beyond an epoch
TURNS = 50


@pytest.fixture
def manifest(faces: str) -> pipeline.Manifest:
    return pipeline.Manifest(Dataset.open(faces))


def _plan(manifest: pipeline.Manifest, balance: float = 0.0) -> Plan:
    plan = Plan(manifest.shard_rows, seed=5, batch_size=24, chunk_rows=8)
    if not balance:
        return plan
    return replace(plan, balance=Balance(manifest.chunk_classes(plan, len(REFERENCE_CLASSES)), balance, plan.seed))


def _batches(
    manifest: pipeline.Manifest, rank: int, world_size: int, first_step: int = 0, **settings: Any
) -> list[Batch]:
    supersteps = pipeline.Supersteps(
        **{"plan": _plan(manifest)} | settings,
        manifest=manifest,
        images=IMAGES,
        rank=rank,
        world_size=world_size,
        first_step=first_step,
        stop_step=STEPS,
    )
    return list(pipeline.batches(supersteps, num_cpus=1))


def _global(manifest: pipeline.Manifest, world_size: int, **settings: Any) -> list[dict[int, tuple[int, bytes]]]:
    """Per step: position -> (id, pixels)."""
    steps: list[dict[int, tuple[int, bytes]]] = [{} for _ in range(STEPS)]
    for rank in range(world_size):
        for batch in _batches(manifest, rank, world_size, **settings):
            for position, sample, image in zip(batch.positions, batch.ids, batch.images, strict=True):
                assert int(position) not in steps[batch.step]
                steps[batch.step][int(position)] = (int(sample), image.tobytes())
    return steps


def test_1_2_3_and_4_ranks_get_the_same_global_batches_pixel_by_pixel(manifest: pipeline.Manifest) -> None:
    alone = _global(manifest, 1)
    assert all(len(step) == 24 for step in alone)
    for world_size in (2, 3, 4):
        assert _global(manifest, world_size) == alone


def test_an_epoch_streams_every_sample_once_with_its_own_label_and_plane_point(
    manifest: pipeline.Manifest, faces: str
) -> None:
    plan, info = _plan(manifest), Dataset.open(faces).info
    rows = [
        (int(i), int(y), *map(float, va))
        for batch in _batches(manifest, 0, 1)
        for i, y, va in zip(batch.ids, batch.labels, batch.va, strict=True)
    ]
    table = Dataset.open(faces).columns(["label", "valence", "arousal"], rows=info.num_train).to_pandas()
    for sample, label, valence, arousal in rows:
        assert (label, valence, arousal) == pytest.approx(tuple(table.loc[sample]))
    whole = [row[0] for row in rows][: plan.num_rows // 24 * 24]
    assert len(set(whole)) >= len(whole) - 24  # at an epoch's end fast lanes begin the next one
    counts = np.bincount([row[0] for row in rows], minlength=plan.num_rows)
    assert counts.min() >= 1


def test_a_stream_resumed_in_mid_superstep_equals_the_uninterrupted_one(manifest: pipeline.Manifest) -> None:
    straight, resumed = _batches(manifest, 1, 2), _batches(manifest, 1, 2, first_step=5)
    assert [batch.step for batch in resumed] == list(range(5, STEPS))
    for expected, batch in zip(straight[5:], resumed, strict=True):
        np.testing.assert_array_equal(batch.ids, expected.ids)
        np.testing.assert_array_equal(batch.images, expected.images)


def test_a_balanced_epoch_has_the_quotas_and_the_same_batches_on_1_2_and_3_ranks(
    manifest: pipeline.Manifest, faces: str
) -> None:
    plan, info = _plan(manifest, balance=1.0), Dataset.open(faces).info
    alone = _global(manifest, 1, plan=plan)
    for world_size in (2, 3):
        assert _global(manifest, world_size, plan=plan) == alone
    labels = Dataset.open(faces).columns(["label"], rows=info.num_train)["label"].to_numpy()
    assert plan.balance is not None
    np.testing.assert_array_equal(plan.balance.counts_C, np.bincount(labels, minlength=len(REFERENCE_CLASSES)))
    np.testing.assert_array_equal(plan.balance.quotas_C, class_quotas(info.class_counts["train"], 1.0))
    streamed = np.bincount([labels[sample] for step in alone for sample, _ in step.values()])
    assert streamed.max() - streamed.min() <= 24, "as many of each class, but for the rows of the epoch begun"
    pixels = {image for step in alone for _, image in step.values()}
    assert len(pixels) == STEPS * 24, "a row that comes again is augmented anew"


def test_ray_datas_loop_rests_while_blocks_wait(manifest: pipeline.Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in the training process: without a rest it turned 750 times a second, and halved the training's speed."""
    rest, turns, enough = pipeline._Breather.on_execution_step, list[float](), threading.Event()

    def note(breather: pipeline._Breather, executor: StreamingExecutor) -> None:
        output = executor._output_node
        if output and output[1].output_queue.num_blocks >= pipeline.BLOCKS_WAITING:
            turns.append(time.monotonic())
        if len(turns) == TURNS:
            enough.set()
        rest(breather, executor)

    monkeypatch.setattr(pipeline._Breather, "on_execution_step", note)
    monkeypatch.setattr(pipeline, "TASK_ROWS", 1)  # a task a superstep, whose block it is
    supersteps = pipeline.Supersteps(
        plan=_plan(manifest), manifest=manifest, images=IMAGES, rank=0, world_size=1, first_step=0, stop_step=640
    )
    batches = pipeline.batches(supersteps, num_cpus=1)
    next(batches)
    assert enough.wait(60)
    assert turns[TURNS - 1] - turns[0] >= (TURNS - 1) * pipeline.LOOP_PAUSE_S


def test_a_stream_has_its_batches_while_no_cpu_is_free(manifest: pipeline.Manifest) -> None:
    """Its worker reserves CPUs for it. Two runs on what a lost host had left once waited for each other's."""
    supersteps = pipeline.Supersteps(
        plan=_plan(manifest), manifest=manifest, images=IMAGES, rank=0, world_size=1, first_step=0, stop_step=9
    )
    with taken(ray.cluster_resources()["CPU"]):
        assert [batch.step for batch in pipeline.batches(supersteps, num_cpus=1, limit_s=60)] == list(range(9))


@dataclass(frozen=True, kw_only=True)
class Held(pipeline.Supersteps):
    """Supersteps of which all but the first wait for a file."""

    file: Path

    def __call__(self, items: Any) -> Iterator[pipeline.Columns]:
        for columns in super().__call__(items):
            until = time.monotonic() + 60
            while columns["step"][0] >= self.plan.steps_per_superstep and not self.file.exists():
                assert time.monotonic() < until
                time.sleep(0.05)
            yield columns


def test_the_first_batch_waits_for_no_more_than_its_superstep(manifest: pipeline.Manifest, tmp_path: Path) -> None:
    """Ray Data gives a task's batches on when they make a block, or at its end; small images make few blocks."""
    supersteps = Held(
        plan=_plan(manifest),
        manifest=manifest,
        images=IMAGES,
        rank=0,
        world_size=1,
        first_step=0,
        stop_step=99,
        file=tmp_path / "go",
    )
    batches = pipeline.batches(supersteps, num_cpus=1, limit_s=30)
    assert next(batches).step == 0
    supersteps.file.touch()
    assert [batch.step for batch in batches] == list(range(1, 99))


class Silent(pipeline.Supersteps):
    """Supersteps of a store that does not answer for long."""

    def __call__(self, items: Any) -> Iterator[pipeline.Columns]:
        threading.Event().wait(5)
        yield from super().__call__(items)


def test_a_stream_without_a_batch_ends_with_a_sentence(manifest: pipeline.Manifest) -> None:
    supersteps = Silent(
        plan=_plan(manifest), manifest=manifest, images=IMAGES, rank=0, world_size=1, first_step=0, stop_step=9
    )
    with pytest.raises(ClusterError) as error:
        next(pipeline.batches(supersteps, num_cpus=1, limit_s=0.5))
    assert "no sign of the stream for 0.5 s: rank 0 has no batch; its tasks wait" in str(error.value)


@pytest.fixture
def spoiled(faces: str, tmp_path: Path) -> tuple[str, list[int]]:
    """A copy of the faces with two damaged rows and all later ones of the last shard cut off; and the bad ids."""
    copy = shutil.copytree(faces, tmp_path / "faces")
    info = Dataset.open(faces).info
    table = Dataset.open(faces).columns(["offset", "shard"], rows=info.num_train).to_pandas()
    for sample in (3, 100):
        _flip_a_byte(copy / info.shards[table["shard"][sample]].name, int(table["offset"][sample]) + 99)
    last = info.shards_of("train")[-1]
    with open(copy / last.name, "r+b") as shard:
        shard.truncate(int(table["offset"][last.first_id + 2]) + 7)
    return str(copy), [3, 100, *range(last.first_id + 2, last.first_id + last.rows)]


def _flip_a_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_bad_rows_are_replaced_alike_on_any_ranks_and_listed_with_their_reasons(
    spoiled: tuple[str, list[int]], tmp_path: Path
) -> None:
    dataset, bad = spoiled
    manifest = pipeline.Manifest(Dataset.open(dataset))
    steps = {}
    for world_size in (1, 3):
        uri = str(tmp_path / f"{world_size}.parquet")
        quarantine = pipeline.start_quarantine(num_rows=270, max_share=0.1, uri=uri, actor_options={"num_cpus": 0})
        steps[world_size] = _global(manifest, world_size, quarantine=quarantine)
        listed = {row.id: row.reason for row in read_quarantine(uri)}
        assert sorted(listed) == bad
        assert "checksum" in listed[3]
        assert "ends early" in listed[bad[-1]]
    assert steps[1] == steps[3]
    assert all(len(step) == 24 for step in steps[1])
    assert not {sample for step in steps[1] for sample, _ in step.values()} & set(bad)


def test_over_the_budget_the_stream_stops_and_says_where_the_list_is(
    spoiled: tuple[str, list[int]], tmp_path: Path
) -> None:
    manifest, uri = pipeline.Manifest(Dataset.open(spoiled[0])), str(tmp_path / "quarantine.parquet")
    quarantine = pipeline.start_quarantine(num_rows=270, max_share=0.001, uri=uri, actor_options={"num_cpus": 0})
    with pytest.raises(Exception, match=r"bad rows of 270 are more than data\.max_bad_share=0\.001") as caught:
        _batches(manifest, 0, 1, quarantine=quarantine)
    _assert_data_error(caught.value)
    assert read_quarantine(uri)


def test_a_damaged_byte_stops_the_stream_and_names_row_and_shard(spoiled: tuple[str, list[int]]) -> None:
    with pytest.raises(Exception, match=r"row \d+, at byte \d+ of .*train-\d{6}\.tar") as caught:
        _batches(pipeline.Manifest(Dataset.open(spoiled[0])), 0, 1)
    _assert_data_error(caught.value)


def _assert_data_error(error: BaseException) -> None:
    """Ray wraps the error of the task."""
    causes = [error, getattr(error, "cause", None), error.__cause__]
    assert any(isinstance(cause, DataError) for cause in causes)
