"""Runs with the exact source: the same on any ranks and in micro-batches, and what a naive step says."""

import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ldlva_dist.analysis.trained_run import read_sample_outputs
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import augment
from ldlva_dist.errors import SettingError
from ldlva_dist.index.graph import read_graph
from ldlva_dist.method.step import TensorBatch, TensorNeighbors, forward_neighbors, step
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.run import launch
from ldlva_dist.training.build import step_settings
from ldlva_dist.training.inputs import make_plan, preparation
from ldlva_dist.training.network import build_model
from testing.exactly_once import ids_of
from testing.tiny_runs import losses, table, tiny_run

K, BATCH = 3, 27


@pytest.fixture
def config(faces: str, tmp_path: Path) -> RunConfig:
    """Six steps of a tiny network whose BatchNorm trains."""
    config = tiny_run(faces, tmp_path, "exact")
    return replace(
        config,
        data=replace(config.data, erase_probability=0.0),
        model=replace(config.model, freeze_batchnorm=False),
        neighbors=replace(config.neighbors, num_neighbors=K, source="exact"),
        training=replace(config.training, epochs=0.6),
    )


def _images(config: RunConfig, ids: NDArray[np.int64], epoch: int) -> torch.Tensor:
    """The training images of some ids: each from its tar, decoded and augmented by itself."""
    info, found = Dataset.open(config.data.dataset).info, []
    for sample in ids.tolist():
        row = Dataset.open(config.data.dataset).columns(["key", "shard"], first_id=sample, rows=1).to_pylist()[0]
        with tarfile.open(Path(config.data.dataset, info.shards[row["shard"]].name)) as tar:
            member = tar.extractfile(f"{row['key']}.jpg")
            assert member is not None
            image = preparation(config).read(member.read())
        draws = {"seed": config.training.seed, "epochs_b": np.array([epoch]), "ids_b": np.array([sample])}
        found.append(augment([image], pad=config.data.pad, flip=True, erase_probability=0.0, **draws)[0])
    return torch.from_numpy(np.stack(found))


def _naive_loss(config: RunConfig) -> float:
    """The loss of step 0: every neighbour's image read and forwarded by itself, the method's step on what comes out."""
    dataset = Dataset.open(config.data.dataset)
    info = dataset.info
    plan = make_plan(config, tuple(shard.rows for shard in info.shards_of("train")))
    ids_B = ids_of(plan, 0)
    ids_BK = np.concatenate([read_graph(dataset, int(i), 1, K)[0] for i in ids_B]).astype(np.int64)
    labels = torch.from_numpy(dataset.columns(["label"])["label"].to_numpy().astype(np.int64))
    va = torch.from_numpy(dataset.va(0, info.num_train))
    torch.set_num_threads(1)
    model = build_model(config, len(info.class_names)).train()
    probs, features = forward_neighbors(model, _images(config, ids_BK.ravel(), 0))
    batch = TensorBatch(
        images=_images(config, ids_B, 0),
        labels_B=labels[ids_B],
        va_B2=va[ids_B],
        logit_B=torch.full((BATCH,), config.uncertainty.initial_logit),
    )
    neighbors = TensorNeighbors(
        va_BK2=va[ids_BK],
        labels_BK=labels[ids_BK],
        probs_BKC=probs.view(BATCH, K, -1),
        features_BKV=features.view(BATCH, K, -1),
        usable_BK=torch.ones(BATCH, K, dtype=torch.bool),
        logit_BK=torch.full((BATCH, K), config.uncertainty.initial_logit),
    )
    settings = step_settings(config, info, torch.device("cpu"))
    return step(model, batch, neighbors, settings=settings, global_batch_size=BATCH).loss.item()


def test_a_run_begins_with_the_naive_loss_and_can_be_judged(cluster: None, config: RunConfig) -> None:
    first = launch.fit(config)
    lines = read_metrics(first.run_uri)
    assert lines[0]["loss"] == pytest.approx(_naive_loss(config), rel=1e-5)
    assert all(line["never_written"] == 0 and line["staleness_max"] == 0 for line in lines)
    _, probs = read_sample_outputs(first.checkpoint, Dataset.open(config.data.dataset).info)
    assert np.count_nonzero(np.isclose(probs.sum(axis=1), 1, atol=1e-2)) == len(lines) * BATCH  # kept for the reports


def test_neither_ranks_nor_micro_batches_change_it_where_batchnorm_is_frozen(cluster: None, config: RunConfig) -> None:
    """Nor the number of shards, nor memory for half of the images. Warm-up comes first, which reads no neighbours."""
    config = replace(
        config, model=replace(config.model, freeze_batchnorm=True), loss=replace(config.loss, warmup_epochs=0.3)
    )
    alone = launch.fit(config)
    other = replace(
        config,
        name="two-ranks",
        bank=replace(config.bank, num_shards=1),
        neighbors=replace(config.neighbors, cache_mb=1),
        training=replace(config.training, gradient_accumulation_steps=2),
        placement=replace(config.placement, num_workers=2),
    )
    together = launch.fit(other)
    assert len(np.unique(table(alone.checkpoint.uri))) > 50
    np.testing.assert_allclose(table(together.checkpoint.uri), table(alone.checkpoint.uri), atol=1e-5, rtol=0)
    np.testing.assert_allclose(losses(together.run_uri), losses(alone.run_uri), atol=1e-4, rtol=0)


def test_a_warm_start_of_the_bank_is_refused(config: RunConfig) -> None:
    with pytest.raises(SettingError, match=r"bank\.warm_start must be empty for neighbors\.source=exact"):
        launch.fit(replace(config, bank=replace(config.bank, warm_start="forward")))
