"""What is told of a run before it starts, against what the loop, the files and the tensors really are."""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from ldlva_dist.bank.checkpoint_parts import PartHeader, part_file
from ldlva_dist.bank.copy_on_write import CopyOnWriteRows
from ldlva_dist.bank.on_workers.record_tensors import row_bytes
from ldlva_dist.bank.records import BankSpec, blank
from ldlva_dist.checkpoint.table_files import table_files
from ldlva_dist.checkpoint.tensors import pack_tensors
from ldlva_dist.config import (
    BankConfig,
    DataConfig,
    IndexConfig,
    ModelConfig,
    NeighborConfig,
    OptimConfig,
    RunConfig,
    TrainingConfig,
)
from ldlva_dist.dataset.manifest import DatasetInfo, ShardInfo, SplitInfo
from ldlva_dist.errors import SettingError
from ldlva_dist.forecast.memory import CUDA_CONTEXT, computed_memory, measured_memory
from ldlva_dist.forecast.probe import speed
from ldlva_dist.forecast.sizes import (
    bank_part_bytes,
    checkpoint_bytes,
    epoch_bytes,
    meta_model,
    planned_bank_spec,
)
from ldlva_dist.forecast.watch import OTHERS, Peak
from ldlva_dist.forecast.work import work_of
from ldlva_dist.index.backends import HNSWIndex
from ldlva_dist.method.uncertainty_table import UncertaintyTable
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.reporting.forecast_table import format_bytes
from ldlva_dist.runtime.own_node import share_of
from ldlva_dist.stream.class_balance import Balance
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training import build
from ldlva_dist.training.device.room import activation_bytes, moment_names, parameter_bytes, require_gpu_room
from ldlva_dist.training.engine import BUCKET_NUMBERS, build_optimizer
from ldlva_dist.training.inputs import make_plan
from ldlva_dist.training.schedule import due_at

SHARDS = (400, 301)
INFO = DatasetInfo(
    name="toy",
    class_names=("a", "b", "c"),
    splits={"train": SplitInfo(first_id=0, rows=701), "holdout": SplitInfo(first_id=701, rows=90)},
    shards=(
        ShardInfo(name="train-000000.tar", split="train", first_id=0, rows=400, bytes=4000),
        ShardInfo(name="train-000001.tar", split="train", first_id=400, rows=301, bytes=3010),
        ShardInfo(name="holdout-000000.tar", split="holdout", first_id=701, rows=90, bytes=900),
    ),
    has_valence_arousal=True,
    content_hash="abc",
    class_counts={"train": (301, 300, 100), "holdout": (30, 30, 30)},
)
CONFIG = RunConfig(
    data=DataConfig(dataset="d", batch_size=27, image_size=32),
    model=ModelConfig(name="resnet10", width=4, stem="small", calibration_hidden=(16, 8)),
    neighbors=NeighborConfig(num_neighbors=4),
    bank=BankConfig(num_shards=3),
)


@pytest.mark.parametrize(
    "training",
    [
        TrainingConfig(epochs=3.0),
        TrainingConfig(epochs=2.7, evaluate_every_epochs=0.4),
        TrainingConfig(epochs=0.01),
        TrainingConfig(epochs=1.0, evaluate_every_epochs=0.01),
        TrainingConfig(epochs=5.0, evaluate_every_epochs=99.0),
        TrainingConfig(epochs=3.0, evaluate_every_epochs=1.0, checkpoint_every_steps=7),
        TrainingConfig(epochs=3.0, checkpoint_every_steps=78),
    ],
)
def test_steps_evaluations_and_checkpoints_are_those_of_the_loop(training: TrainingConfig) -> None:
    config = replace(CONFIG, training=training)
    plan = make_plan(config, SHARDS)
    steps = plan.steps_for(training.epochs)
    due = [due_at(training, plan, step) for step in range(1, steps + 1)]
    work = work_of(config, INFO)
    assert (work.steps, work.samples) == (steps, 27 * steps)
    assert work.evaluations == sum(one.evaluation for one in due)
    assert work.evaluated_samples == 90 * work.evaluations
    assert work.checkpoints == sum(one.checkpoint for one in due)
    assert work.checkpoints_kept == min(work.checkpoints, training.num_to_keep + 1)


def test_what_the_bank_is_filled_with_is_work_too() -> None:
    filled = work_of(replace(CONFIG, bank=BankConfig(warm_start="forward")), INFO)
    assert filled.forward_samples >= 701
    assert filled.seconds(10) > work_of(CONFIG, INFO).seconds(10) + 701 / 10 / 4


@pytest.mark.parametrize("recipe", ["official", "paper", "ce"])
@pytest.mark.parametrize(
    "optim", [OptimConfig(name="adamw"), OptimConfig(name="sgd"), OptimConfig(name="sgd", momentum=0)]
)
def test_files_of_model_and_optimiser_are_as_large_as_said(recipe: Any, optim: OptimConfig) -> None:
    config = replace(CONFIG, loss=replace(CONFIG.loss, recipe=recipe), optim=optim)
    said, model = checkpoint_bytes(config, INFO), build.build_model(config, 3)
    moments = {
        f"{name}/{key}": p.detach().clone() for name in moment_names(config) for key, p in model.named_parameters()
    }
    assert said["model"] == pytest.approx(len(pack_tensors("weights", model.state_dict())), abs=300)
    assert said["optimizer"] == pytest.approx(len(pack_tensors("moments", moments)), abs=300)
    assert ("bank" in said) == (recipe != "ce")


def test_the_table_s_file_is_as_large_as_said() -> None:
    of_sop = replace(CONFIG, loss=replace(CONFIG.loss, recipe="sop"))
    for config, lr in ((CONFIG, 1.0), (of_sop, [1.0] * 4)):
        (content,) = table_files(UncertaintyTable(701, initial_logit=0.0, lr=lr)).values()
        assert checkpoint_bytes(config, INFO)["table"] == pytest.approx(len(content()), abs=64)


@pytest.mark.parametrize("features_dtype", ["int8", "float16", "float32"])
def test_the_bank_s_files_are_as_large_as_said(features_dtype: Any) -> None:
    spec = BankSpec(num_classes=3, feature_width=32, features_dtype=features_dtype)
    rows, pending = CopyOnWriteRows(blank(0, 500, spec)), blank(20, 29, spec)
    header = PartHeader(start=0, stop=500, step=3)
    graphs = {f"graph_{n}": np.zeros((500, 4), dtype=np.int32) for n in (1, 2)}
    assert bank_part_bytes(spec, 500, 9, 0) == pytest.approx(part_file(rows, pending, header).size, abs=200)
    assert bank_part_bytes(spec, 500, 9, 8) == pytest.approx(part_file(rows, pending, header, graphs).size, abs=200)


def test_an_epoch_reads_every_shard_once_and_more_with_class_balance() -> None:
    plan = make_plan(CONFIG, SHARDS)
    assert epoch_bytes(INFO, plan) == 7010
    counts_kC = np.zeros((len(plan.chunks[0]), 3), dtype=np.int32)
    counts_kC[:, 0] = plan.chunks[1]
    counts_kC[0] = (plan.chunks[1][0] - 2, 1, 1)  # two rows that an epoch shows again and again
    balanced = Plan(SHARDS, 0, 27, 128, Balance(counts_kC, 1.0, 0))
    assert epoch_bytes(INFO, balanced) > 7010


def test_activations_on_the_meta_device_are_those_of_the_cpu() -> None:
    shape, found = (5, 32, 32, 3), []
    for device in ("meta", "cpu"):
        model: LDLVA = build.build_model(CONFIG, 3) if device == "cpu" else meta_model(CONFIG, INFO)
        found.append(activation_bytes(model.train(), torch.zeros(shape, dtype=torch.uint8, device=device)))
    assert found[0] == found[1]
    twice = activation_bytes(meta_model(CONFIG, INFO), torch.zeros((10, 32, 32, 3), dtype=torch.uint8, device="meta"))
    assert twice == pytest.approx(2 * found[0], rel=0.02)


def test_activations_count_the_calibration_network_on_all_pairs() -> None:
    def kept(k: int, device: str = "meta") -> int:
        model: LDLVA = build.build_model(CONFIG, 3) if device == "cpu" else meta_model(CONFIG, INFO)
        images, usable_BK = torch.zeros((5, 32, 32, 3), dtype=torch.uint8), torch.ones(5, k, dtype=torch.bool)
        inputs = images, torch.zeros(5, k, model.feature_width), usable_BK
        return activation_bytes(model.train(), *(tensor.to(device) for tensor in inputs))

    assert kept(4) == kept(4, "cpu")
    hidden = sum(CONFIG.model.calibration_hidden)
    assert kept(8) - kept(4) >= 5 * 4 * 4 * hidden  # each pair keeps at least what its norms were given


@pytest.mark.parametrize("recipe", ["official", "paper", "posterior", "ce", "elr", "sop", "gce", "sce", "mixup"])
@pytest.mark.parametrize(
    ("workers", "stage", "place"), [(1, 1, "actors"), (3, 0, "workers"), (3, 1, "actors"), (3, 3, "workers")]
)
def test_what_a_gpu_must_have_at_least_is_part_of_what_is_planned(
    recipe: Any, workers: int, stage: Literal[0, 1, 3], place: Any
) -> None:
    config = replace(
        CONFIG,
        loss=replace(CONFIG.loss, recipe=recipe),
        bank=BankConfig(place=place),
        placement=replace(CONFIG.placement, use_gpu=True, num_workers=workers),
        training=replace(CONFIG.training, zero_stage=stage),
    )
    planned = next(role.each for role in computed_memory(config, INFO, nodes=1) if role.name == "GPU of a trainer")
    estimates = CUDA_CONTEXT + (4 * BUCKET_NUMBERS if stage and workers > 1 else 0)
    assert 0 < build.least_bytes_of_rank(config, INFO, workers) < planned - estimates


@pytest.mark.parametrize(
    "optim", [OptimConfig(name="adamw"), OptimConfig(name="sgd"), OptimConfig(name="sgd", momentum=0)]
)
@pytest.mark.parametrize("place", ["actors", "workers"])
def test_what_a_gpu_must_have_at_least_is_what_a_second_forward_really_leaves(optim: OptimConfig, place: Any) -> None:
    """On a CPU, whose tensors are as large: weights, moments, activations, rows of the bank."""
    config = replace(CONFIG, optim=optim, bank=BankConfig(place=place))
    model: LDLVA = build.build_model(config, 3).train()
    optimizer = build_optimizer(model, optim.name, lr=optim.lr, weight_decay=0.0, momentum=optim.momentum)
    rows, k = config.data.batch_size, config.neighbors.num_neighbors
    images, usable_BK = torch.zeros((rows, 32, 32, 3), dtype=torch.uint8), torch.ones(rows, k, dtype=torch.bool)
    inputs = images, torch.zeros(rows, k, model.feature_width), usable_BK
    output = model(*inputs)
    (output.logits_BC.sum() + output.calibration_BK.sum()).backward()
    optimizer.step()
    held = [value for entry in optimizer.state.values() for value in entry.values()]
    moments = sum(value.nbytes for value in held if torch.is_tensor(value) and value.ndim > 0)
    bank = 701 * row_bytes(planned_bank_spec(config, INFO)) if place == "workers" else 0
    really = parameter_bytes(model) + moments + activation_bytes(model, *inputs) + bank
    assert build.least_bytes_of_rank(config, INFO, 1) == really


def test_a_gpu_that_cannot_hold_a_worker_is_refused_in_a_sentence_and_one_that_may_is_not() -> None:
    require_gpu_room(80 << 30, 80 << 30)
    with pytest.raises(SettingError, match=r"^data\.batch_size .* GPU \(80\.0 GiB\) .* got at least 95\.5 GiB$"):
        require_gpu_room(95 << 30 | 1 << 29, 80 << 30)


def test_a_gpu_holds_the_buckets_of_zero_and_batches_that_come_ahead() -> None:
    def gpu(workers: int, stage: Literal[0, 1], pixels: int) -> int:
        config = replace(
            CONFIG,
            data=replace(CONFIG.data, image_size=pixels, batch_size=8 * workers),
            placement=replace(CONFIG.placement, use_gpu=True, num_workers=workers),
            training=replace(CONFIG.training, zero_stage=stage),
        )
        return next(r.each for r in computed_memory(config, INFO, nodes=1) if r.name == "GPU of a trainer")

    assert gpu(2, 1, 48) - gpu(2, 0, 48) > 3.9 * BUCKET_NUMBERS
    assert gpu(1, 0, 96) - gpu(1, 0, 48) > 3 * 8 * 3 * (96**2 - 48**2)


def test_ranks_on_cpus_hold_the_gradients_that_they_exchange() -> None:
    def trainer(workers: int, stage: Literal[0, 1]) -> int:
        config = replace(
            CONFIG,
            placement=replace(CONFIG.placement, num_workers=workers),
            training=replace(CONFIG.training, zero_stage=stage),
        )
        return next(role.each for role in computed_memory(config, INFO, nodes=1) if role.name == "trainer")

    weights, moments = parameter_bytes(meta_model(CONFIG, INFO)), len(moment_names(CONFIG))
    whole, shared = (2 + moments + 3) * weights, 3 * weights + (2 + moments) * weights // 2
    assert trainer(2, 0) - trainer(2, 1) == whole - shared
    assert trainer(1, 0) == trainer(1, 1)


def test_the_memory_of_a_shard_grows_by_what_a_row_takes() -> None:
    def shard(rows: int) -> int:
        info = replace(INFO, splits={**INFO.splits, "train": SplitInfo(first_id=0, rows=rows)})
        return next(role.each for role in computed_memory(CONFIG, info, nodes=1) if role.name == "bank shard")

    spec = build.bank_spec(CONFIG, INFO)
    stored = spec.record.itemsize + 12 + 4 * 4
    assert (shard(9_000_000) - shard(6_000_000)) / 1_000_000 == pytest.approx(stored, rel=1e-6)


def test_an_index_shard_on_a_cpu_holds_the_links_of_two_approximate_indexes_too() -> None:
    def shard(min_recall: float, gpus: float) -> int:
        config = replace(
            CONFIG,
            index=IndexConfig(space="feature", min_recall=min_recall),
            placement=replace(CONFIG.placement, gpus_per_index=gpus),
        )
        return next(role.each for role in computed_memory(config, INFO, nodes=1) if role.name == "index shard")

    assert shard(0.95, 0) - shard(1, 0) == 2 * 701 * HNSWIndex.LINK_BYTES
    assert shard(0.95, 1) == shard(1, 1)


@pytest.mark.parametrize("use_gpu", [False, True])
def test_a_bank_on_the_workers_is_memory_of_their_devices_cut_over_them(use_gpu: bool) -> None:
    def each(place: Any, workers: int) -> tuple[int, int]:
        config = replace(
            CONFIG,
            bank=BankConfig(place=place),
            placement=replace(CONFIG.placement, num_workers=workers, use_gpu=use_gpu),
        )
        found = {role.name: role.each for role in computed_memory(config, INFO, nodes=1)}
        assert ("bank shard" in found) == (place == "actors")
        return found["GPU of a trainer" if use_gpu else "trainer"], found["trainer"]

    spec, workers = planned_bank_spec(CONFIG, INFO), 3
    rows, ids = -(-701 // workers) * row_bytes(spec), -(-701 // workers) * 4 * CONFIG.bank_neighbors
    held, host = (there - here for there, here in zip(each("workers", workers), each("actors", workers), strict=True))
    assert held == (rows if use_gpu else 2 * rows + ids), "on a CPU the copy for a checkpoint is memory of the same"
    assert host == (rows + ids if use_gpu else 2 * rows + ids)


def test_the_store_holds_what_the_tasks_beside_a_late_one_made_and_no_more_than_a_pipelines_share() -> None:
    def store(data_cpus: float, workers: int = 1, share: float = math.inf, pixels: int = 96) -> int:
        config = replace(
            CONFIG,
            data=replace(CONFIG.data, image_size=pixels, batch_size=256),
            placement=replace(CONFIG.placement, num_workers=workers, data_cpus_per_worker=data_cpus),
        )
        info = replace(
            INFO,
            splits={"train": SplitInfo(first_id=0, rows=400_000)},
            shards=(replace(INFO.shards[0], rows=400_000, bytes=4_000_000_000),),
        )
        roles = computed_memory(config, info, 1, share)
        return next(role.each for role in roles if role.name == "object store") - 26 * 400_000

    image = 96 * 96 * 3
    superstep = 128 * 64  # rows of all lanes: more than a task is worth, so each goes through one
    assert store(8) == 8 * superstep * image
    assert store(8, workers=2) == 2 * 8 * (superstep // 2) * image
    assert store(8, share=1e9) == 10**9
    assert store(0.5, share=1e3) == store(4, share=1e3) > 4 * 31 << 20, "blocks at work come in any case"
    assert store(8, pixels=48) == store(8) // 4


def test_a_pipelines_share_of_the_store_goes_with_its_cpus() -> None:
    node = {"CPU": 96.0, "GPU": 8.0, "object_store_memory": 192e9}
    assert share_of(node, 12) == 24e9
    assert share_of(node, 200) == 192e9
    assert share_of({"object_store_memory": 8e9}, 1) == 8e9


def test_a_gpu_takes_the_network_off_the_host() -> None:
    on_gpu = replace(CONFIG, placement=replace(CONFIG.placement, use_gpu=True))
    here, there = (
        {role.name: role.each for role in computed_memory(config, INFO, nodes=1)} for config in (CONFIG, on_gpu)
    )
    assert "GPU of a trainer" not in here
    assert there["GPU of a trainer"] > 0


def test_what_a_probe_saw_takes_the_place_of_what_was_computed() -> None:
    computed = computed_memory(CONFIG, INFO, nodes=1)
    peaks = {"trainer": Peak(processes=1, largest=123, together=123), OTHERS: Peak(processes=9, largest=5, together=30)}
    roles = {role.name: role for role in measured_memory(computed, peaks)}
    assert (roles["trainer"].each, roles["trainer"].how) == (123, "measured")
    assert roles["bank shard"] == next(role for role in computed if role.name == "bank shard")
    assert roles[OTHERS].together == 30


def test_speed_leaves_out_the_start() -> None:
    lines = [{"step": 5, "samples_per_second": 1.0}]
    assert speed(lines, 10) == 1.0
    lines += [{"step": 10, "samples_per_second": 50.0}, {"step": 20, "samples_per_second": 25.0}]
    assert speed(lines, 10) == pytest.approx(150 / (50 / 50 + 100 / 25))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.50 kB"),
        (47_424_760, "47.4 MB"),
        (999_900_000, "1.00 GB"),
        (2.1e14, "210 TB"),
    ],
)
def test_bytes_are_shown_with_three_digits(size: float, text: str) -> None:
    assert format_bytes(size) == text
