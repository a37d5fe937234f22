"""bank.warm_start=forward: before the first step the bank holds what the untrained network says of every sample."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ldlva_dist.bank.checkpoint_parts import newest
from ldlva_dist.config import (
    BankConfig,
    DataConfig,
    ModelConfig,
    NeighborConfig,
    PlacementConfig,
    RunConfig,
    TrainingConfig,
)
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.method.step import forward_neighbors
from ldlva_dist.run import launch
from ldlva_dist.training.build import bank_spec
from ldlva_dist.training.evaluate import SplitReader
from ldlva_dist.training.inputs import make_plan
from ldlva_dist.training.network import build_model
from testing.exactly_once import ids_of

RANKS, BATCH = 2, 32


@pytest.fixture
def config(faces: str, tmp_path: Path) -> RunConfig:
    """A single step on two ranks."""
    return RunConfig(
        name="warm",
        storage_path=str(tmp_path),
        data=DataConfig(dataset=faces, batch_size=BATCH, chunk_rows=16, image_size=48),
        model=ModelConfig(name="resnet10", width=4, stem="small", calibration_hidden=(16, 8)),
        neighbors=NeighborConfig(num_neighbors=4, timeout_s=60),
        bank=BankConfig(num_shards=3, probs_dtype="float32", features_dtype="float32", warm_start="forward"),
        training=TrainingConfig(epochs=0.1),
        placement=PlacementConfig(num_workers=RANKS, cpus_per_worker=0.5, data_cpus_per_worker=0.5, max_failures=0),
    )


def test_every_row_is_filled_with_what_a_naive_forward_gives_and_nothing_else_changes(
    cluster: None, config: RunConfig
) -> None:
    result = launch.fit(config)
    dataset = Dataset.open(config.data.dataset)
    info = dataset.info
    files = result.checkpoint.bank_files
    bank = newest(files, info.num_train, bank_spec(config, info))[0].records
    assert (bank["versions"] == 0).all()  # the only step's, or filled as of it

    plan = make_plan(config, tuple(shard.rows for shard in info.shards_of("train")))
    trained = np.concatenate([ids_of(plan, 0, rank, RANKS) for rank in range(RANKS)])
    reader = SplitReader(
        dataset=dataset, split="train", preparation=Preparation(size=48, channels=3, resize="antialias")
    )
    images = torch.from_numpy(np.concatenate(list(reader.batches(0, info.num_train))))
    torch.set_num_threads(1)
    model, seen = build_model(config, len(info.class_names)).train(), []
    for rank in range(RANKS):
        for step in range(-(-info.num_train // BATCH)):
            rows = ids_of(plan, step, rank, RANKS)
            probs, features = forward_neighbors(model, images[np.where(rows < 0, -1 - rows, rows)])
            filled = (rows >= 0) & ~np.isin(rows, trained)
            np.testing.assert_allclose(bank["probs"][rows[filled]], probs[filled], atol=1e-5)
            np.testing.assert_allclose(bank["features"][rows[filled]], features[filled], atol=1e-4)
            seen.append(rows[rows >= 0])
    assert sorted(np.concatenate(seen)) == list(range(info.num_train))
    assert info.num_train % BATCH, "the last batch has rows of the second epoch, which must not be filled again"

    weights = load_file(f"{result.checkpoint.uri}/model.safetensors")
    counted = {name: int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")}
    assert {count for name, count in counted.items() if "calibration" not in name} == {1}
