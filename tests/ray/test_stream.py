"""The stream against the plan: every rank's ids, images that depend on nobody, resumed equals uninterrupted."""

import numpy as np
import pytest

from ldlva_dist.data import stream
from ldlva_dist.data.manifest import read_columns, read_info
from ldlva_dist.data.plan import Plan
from ldlva_dist.errors import DataError
from ldlva_dist.messages import Batch

pytestmark = pytest.mark.usefixtures("cluster")
IMAGES = stream.ImageSettings(size=48, channels=3, flip=True, pad=4, erase_probability=0.5)
STEPS = 14  # beyond an epoch


@pytest.fixture
def manifest(faces: str) -> stream.Manifest:
    return stream.Manifest(faces, read_info(faces))


def _plan(manifest: stream.Manifest) -> Plan:
    return Plan(manifest.shard_rows, seed=5, batch_size=24, chunk_rows=8)


def _batches(manifest: stream.Manifest, rank: int, world_size: int, first_step: int = 0) -> list[Batch]:
    supersteps = stream.Supersteps(
        plan=_plan(manifest),
        manifest=manifest,
        images=IMAGES,
        rank=rank,
        world_size=world_size,
        first_step=first_step,
        stop_step=STEPS,
    )
    return list(stream.batches(supersteps, num_cpus=1))


def _global(manifest: stream.Manifest, world_size: int) -> list[dict[int, tuple[int, bytes]]]:
    """Per step: position -> (id, pixels)."""
    steps: list[dict[int, tuple[int, bytes]]] = [{} for _ in range(STEPS)]
    for rank in range(world_size):
        for batch in _batches(manifest, rank, world_size):
            for position, sample, image in zip(batch.positions, batch.ids, batch.images, strict=True):
                assert int(position) not in steps[batch.step]
                steps[batch.step][int(position)] = (int(sample), image.tobytes())
    return steps


def test_1_2_3_and_4_ranks_get_the_same_global_batches_pixel_by_pixel(manifest: stream.Manifest) -> None:
    alone = _global(manifest, 1)
    assert all(len(step) == 24 for step in alone)
    for world_size in (2, 3, 4):
        assert _global(manifest, world_size) == alone


def test_an_epoch_streams_every_sample_once_with_its_own_label_and_plane_point(
    manifest: stream.Manifest, faces: str
) -> None:
    plan, info = _plan(manifest), read_info(faces)
    rows = [
        (int(i), int(y), *map(float, va))
        for batch in _batches(manifest, 0, 1)
        for i, y, va in zip(batch.ids, batch.labels, batch.va, strict=True)
    ]
    table = read_columns(faces, ["label", "valence", "arousal"], rows=info.num_train).to_pandas()
    for sample, label, valence, arousal in rows:
        assert (label, valence, arousal) == pytest.approx(tuple(table.loc[sample]))
    whole = [row[0] for row in rows][: plan.num_rows // 24 * 24]
    assert len(set(whole)) >= len(whole) - 24  # at an epoch's end fast lanes begin the next one
    counts = np.bincount([row[0] for row in rows], minlength=plan.num_rows)
    assert counts.min() >= 1


def test_a_stream_resumed_in_mid_superstep_equals_the_uninterrupted_one(manifest: stream.Manifest) -> None:
    straight, resumed = _batches(manifest, 1, 2), _batches(manifest, 1, 2, first_step=5)
    assert [batch.step for batch in resumed] == list(range(5, STEPS))
    for expected, batch in zip(straight[5:], resumed, strict=True):
        np.testing.assert_array_equal(batch.ids, expected.ids)
        np.testing.assert_array_equal(batch.images, expected.images)


def test_a_damaged_byte_stops_the_stream_and_names_the_shard(faces: str, tmp_path) -> None:
    import shutil

    copy = tmp_path / "faces"
    shutil.copytree(faces, copy)
    row = read_columns(str(copy), ["offset", "size"], rows=1).to_pylist()[0]
    shard = copy / read_info(str(copy)).shards[0].name
    data = bytearray(shard.read_bytes())
    data[row["offset"] + row["size"] // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(Exception, match=shard.name) as caught:  # Ray wraps the error of the task
        _batches(stream.Manifest(str(copy), read_info(str(copy))), 0, 1)
    causes = [caught.value, getattr(caught.value, "cause", None), caught.value.__cause__]
    assert any(isinstance(cause, DataError) for cause in causes)
