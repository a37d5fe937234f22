"""make_shards add, then a run over the new version that begins with what one over the old rows has learnt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ldlva_dist.bank.checkpoint_parts import newest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.verify import verify
from ldlva_dist.run import launch
from ldlva_dist.training.build import bank_spec
from ldlva_dist.training.inputs import make_plan
from testing.clusters.job_scripts import Scripts
from testing.exactly_once import ids_of
from testing.tiny_runs import table, tiny_run


def test_a_run_over_added_rows_begins_with_what_the_old_rows_had_learnt(
    scripts: Scripts, faces: str, alone: launch.RunResult, tmp_path: Path
) -> None:
    done = scripts.run("make_shards", "add", faces, "faces", "--name", "grown", "--train", "40", "--test", "5")
    assert done.code == 0, done.stderr
    assert "neighbour graphs extended: graph-K16" in done.stdout
    old, new = Dataset.open(faces).info, Dataset.open(f"{faces}/versions/grown")
    assert verify(new) == 1
    assert (
        sum(split.rows for split in new.info.splits.values()) - sum(split.rows for split in old.splits.values()) == 45
    )

    config = tiny_run(new.uri, tmp_path, "grown")
    training = replace(config.training, epochs=0.1, start_from=alone.run_uri)
    config = replace(
        config, training=training, optim=replace(config.optim, lr=1e-9), loss=replace(config.loss, gamma=0)
    )
    result = launch.fit(config)
    assert result.metrics["step"] == 1
    plan = make_plan(config, tuple(shard.rows for shard in new.info.shards_of("train")))
    learnt = ids_of(plan, 0, 0, 1)
    others = np.setdiff1d(np.arange(new.info.num_train), learnt)
    kept = others[others < old.num_train]
    assert len(kept) < len(others)

    logits, before = table(result.checkpoint.uri), table(alone.checkpoint.uri)
    np.testing.assert_array_equal(logits[kept], before[kept])
    assert (logits[others[others >= old.num_train]] == np.float32(config.uncertainty.initial_logit)).all()
    spec = bank_spec(config, new.info)
    bank, _ = newest(result.checkpoint.bank_files, new.info.num_train, spec)
    had, _ = newest(alone.checkpoint.bank_files, old.num_train, spec)
    np.testing.assert_array_equal(bank.records["probs"][kept], had.records["probs"][kept])
    np.testing.assert_array_equal(bank.records["features"][kept], had.records["features"][kept])
    assert (bank.records["versions"][kept] == 0).all()
    assert (bank.records["versions"][others[others >= old.num_train]] == -1).all()
    weights, were = (load_file(f"{run.checkpoint.uri}/model.safetensors") for run in (result, alone))
    for name in ("classifier.weight", "backbone.conv1.weight"):
        np.testing.assert_allclose(weights[name], were[name], atol=1e-6)

    stranger = replace(config, name="stranger", data=replace(config.data, dataset=faces))
    with pytest.raises(SettingError, match=r"start_from must be of a run on this data set.*which knows other rows"):
        launch.prepare(replace(stranger, training=replace(stranger.training, start_from=result.run_uri)))
    with pytest.raises(SettingError, match="start_from must be a run with a finished checkpoint"):
        launch.prepare(replace(stranger, training=replace(stranger.training, start_from=str(tmp_path))))
