"""DeepSpeed on real gloo ranks: a run goes on at any ZeRO stage, on any number of ranks, and nothing is compiled.

Saved on two ranks after some steps, a run goes on on one to four: weights, moments and table are what was saved, bit by
bit; on two ranks so are all later losses, on others they and the table are the same within 1e-5. The checkpoint is
packed only when the straight run is at its end: what was learnt meanwhile must not be in it.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load
from torch import Tensor

from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.saved_files import checkpoint_uri
from ldlva_dist.checkpoint.saver import Saver
from ldlva_dist.config import DataConfig, OptimConfig, RobustConfig, RunConfig, TrainingConfig
from ldlva_dist.messages import Batch, Neighbors
from ldlva_dist.method.row_routes import Route
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training.build import build_state, step_settings
from ldlva_dist.training.device.copies import NoCopies
from ldlva_dist.training.device.tensors import batch_tensors, neighbor_tensors, with_logits
from ldlva_dist.training.engine import _prepare_device
from ldlva_dist.training.optimizer_step import StepOutputs, optimize
from ldlva_dist.training.state import TrainState
from testing.forked_ranks import run_ranks
from testing.tiny_runs import random_info, tiny_run
from testing.tiny_runs import table as whole_table

Case = tuple[int, Literal["adam", "adamw", "sgd"], Literal["official", "sop"]]
CASES: tuple[Case, ...] = (
    (0, "adamw", "official"),
    (1, "adamw", "official"),
    (2, "adam", "official"),
    (3, "adamw", "official"),
    (1, "sgd", "official"),
    (1, "adamw", "sop"),
)
"""ZeRO stage, optimiser, and recipe: that of a table of uncertainties, and that of 1 + C numbers of each sample."""
ROWS, BATCH, K, CLASSES, SAVED_AT, STEPS = 90, 14, 4, 5, 3, 8
"""14 lanes of one row: three and four ranks have slices of different sizes."""
DEVICE = torch.device("cpu")


class CopiesBeside(NoCopies):
    """As if the CPU were a device: inputs are copied in a thread ahead, and outputs when they are asked for."""

    at_once = False

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)

    def inward(self, values: Any) -> Tensor:
        return super().inward(values).clone()

    def ahead(self, make: Callable[[], Any]) -> Callable[[], Any]:
        return self._thread.submit(make).result

    def outward(self, tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        there = {name: tensor.clone() for name, tensor in tensors.items()}
        return lambda: there


def _config(folder: str, stage: Any, name: Any, recipe: Any) -> RunConfig:
    config = tiny_run("none", folder, f"{stage}-{name}-{recipe}")
    return replace(
        config,
        data=DataConfig(dataset="none", batch_size=BATCH, image_size=16),
        model=replace(config.model, width=2),
        loss=replace(config.loss, recipe=recipe),
        robust=RobustConfig(sop_u_rate=0.1, sop_v_rate=0.2, sop_spread=0.1),
        optim=OptimConfig(name=name, lr=1e-3, weight_decay=1e-2, momentum=0.9, gradient_clipping=1.0),
        training=TrainingConfig(zero_stage=stage),
    )


def _batch(state: TrainState, plan: Plan) -> tuple[Batch, Neighbors]:
    """This rank's rows of a global batch, and their neighbours: random, and the same on any number of ranks."""
    random = np.random.default_rng(state.step)
    ids, near = random.permutation(ROWS)[:BATCH], random.integers(ROWS, size=(BATCH, K))
    images = random.integers(256, size=(BATCH, 16, 16, 3), dtype=np.uint8)
    features = random.normal(size=(BATCH, K, state.engine.module.feature_width)).astype(np.float32)
    rows = plan.positions(dist.get_rank(), dist.get_world_size())
    batch = Batch(
        step=state.step,
        positions=rows,
        ids=ids[rows],
        images=images[rows],
        labels=ids[rows] % CLASSES,
        va=_va(ids[rows]),
    )
    neighbors = Neighbors(
        ids=near[rows],
        va=_va(near[rows]),
        labels=near[rows] % CLASSES,
        probs=random.dirichlet(np.ones(CLASSES), size=(BATCH, K)).astype(np.float32)[rows],
        features=features[rows],
        versions=np.zeros((len(rows), K), dtype=np.int64),
    )
    return batch, neighbors


def _va(ids: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, size=(ROWS, 2)).astype(np.float32)[ids]


def _train(state: TrainState, steps: int) -> list[float]:
    """The loss of the global batch in every step."""
    settings, plan = step_settings(state.config, state.info, DEVICE), Plan((ROWS,), 0, BATCH, 16)
    losses = []
    by_deepspeed = state.engine._engine.enable_backward_allreduce
    assert by_deepspeed == (state.engine._stage > 0), "ZeRO-0 on CPUs is averaged here"
    assert state.table, "the recipe keeps something of each sample"
    for _ in range(steps):
        state.engine.begin_step(1e-3)
        batch, neighbors = _batch(state, plan)
        near_ids = neighbors.ids.ravel() if state.config.uses_neighbors else batch.ids[:0]
        route = state.table.route(np.concatenate([batch.ids, near_ids]), len(batch.ids))
        copies = state.engine.copies
        rows = copies.ahead(partial(batch_tensors, batch, copies))
        near = copies.ahead(partial(neighbor_tensors, neighbors, copies)) if state.config.uses_neighbors else None
        rows, near = with_logits(rows(), near and near(), state.table.read(route), copies)
        outputs, apply = optimize(
            state, rows, near, settings=settings, use_neighbors=True, tell=partial(_begin_apply, state, route)
        )
        apply()
        state.step += 1
        total = outputs.terms["loss"].clone()
        dist.all_reduce(total)
        losses.append(total.item())
    return losses


def _begin_apply(state: TrainState, route: Route, outputs: StepOutputs) -> Callable[[], Tensor]:
    """As a worker does it: before the backward, whose gradients these travel with, where the host has the outputs."""
    assert state.table
    is_first = state.config.training.gradient_accumulation_steps == 1
    if is_first and state.engine.copies.at_once:
        assert all(parameter.grad is None for parameter in state.engine.module.parameters())
    return state.table.apply(route, outputs.logit_grads)


def _save(state: TrainState, steps: int = 0) -> tuple[str, list[float]]:
    """A checkpoint of the state as it is, of which nothing is packed before the next ``steps``; their losses."""
    run = f"{state.config.storage_path}/{state.config.name}/on-{dist.get_world_size()}"
    uri, is_over = checkpoint_uri(run, state.step), threading.Event()
    saver = Saver(run, num_to_keep=9, limit_s=60)
    files, _ = state.copy()
    at_once = {name: pack() for name, pack in files.items()}

    def late(pack: Callable[[], bytes]) -> Callable[[], bytes]:
        return lambda: pack() if is_over.wait(60) else b"too late"

    saver.begin(state.step, {n: late(pack) for n, pack in files.items()}, state.facts() | {"metrics": {}})
    losses = _train(state, steps)
    is_over.set()
    saver.finish()
    dist.barrier()
    changed = [name for name, data in at_once.items() if Checkpoint.open(uri).read(name) != data]
    assert not changed, f"{changed} of {uri} hold what was learnt after it"
    return uri, losses


def _ranks(rank: int, world_size: int, folder: str, phase: str) -> None:
    """One rank of all cases: the ranks start once, because starting them costs more than the cases do."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "TORCH_EXTENSIONS_DIR": f"{folder}/extensions"}
    path = f"{folder}/store-{phase}-{world_size}"
    store = dist.FileStore(path, world_size)  # pyright: ignore[reportPrivateImportUsage] (torch documents it there)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    for case in CASES:
        config = _config(folder, *case)
        place = f"{folder}/{config.name}"
        if phase == "straight":
            state = build_state(config, random_info(ROWS), None, device=DEVICE, checkpoint=None)
            _train(state, SAVED_AT)
            _, losses = _save(state, steps=STEPS - SAVED_AT)
        else:
            saved = Checkpoint.open(checkpoint_uri(f"{place}/on-2", SAVED_AT))
            state = build_state(config, random_info(ROWS), None, device=DEVICE, checkpoint=saved)
            _assert_is_what_was_saved(state, saved)
            state.engine.copies = CopiesBeside()  # copies change nothing: on two ranks the losses are the same bits
            losses = _train(state, STEPS - SAVED_AT)
        last = _save(state)[0] if phase == "straight" or world_size != 2 else None
        if rank == 0:
            torch.save((losses, last), f"{place}/{phase}-{world_size}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _assert_is_what_was_saved(state: TrainState, saved: Checkpoint) -> None:
    weights, moments = state.engine.model_state(), state.engine.optimizer_state()
    is_first = dist.get_rank() == 0
    for name, values in (("model", weights), ("optimizer", moments)):
        there = load(saved.read(f"{name}.safetensors")) if is_first else {}
        assert there.keys() == values.keys()
        for key in there:
            assert torch.equal(there[key], values[key]), f"{name} {key}"
    assert state.table is not None
    rows = slice(state.table.start, state.table.stop)
    assert np.array_equal(state.table.state()["logits"].numpy(), whole_table(saved.uri)[rows])
    assert any(key.startswith(("exp_avg/", "momentum_buffer/")) for key in moments) == is_first


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case trained without a break on two ranks, and gone on with from its third step on one to four."""
    folder = tmp_path_factory.mktemp("engine")
    for phase, world_size in (("straight", 2), ("resume", 1), ("resume", 2), ("resume", 3), ("resume", 4)):
        run_ranks(_ranks, (world_size, str(folder), phase), world_size)
    return folder


def _outcome(folder: Path, phase: str, world_size: int) -> tuple[list[float], str]:
    return torch.load(folder / f"{phase}-{world_size}.pt", weights_only=True)


@pytest.mark.parametrize(("stage", "name", "recipe"), CASES)
def test_a_run_goes_on_on_any_number_of_ranks(stage: int, name: str, recipe: str, runs: Path) -> None:
    case = runs / f"{stage}-{name}-{recipe}"
    straight, last = _outcome(case, "straight", 2)
    table = whole_table(last)
    assert table.shape == ((ROWS,) if recipe == "official" else (ROWS, 1 + CLASSES))
    assert len(np.unique(table)) > ROWS // 2
    assert _outcome(case, "resume", 2)[0] == straight
    for world_size in (1, 3, 4):
        losses, other = _outcome(case, "resume", world_size)
        np.testing.assert_allclose(losses, straight, rtol=1e-5)
        np.testing.assert_allclose(whole_table(other), table, atol=1e-5, rtol=0)


def test_on_the_cpu_a_tensor_is_the_arrays_own_memory() -> None:
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    images.flags.writeable = False
    rows = Batch(step=0, positions=np.arange(2, dtype=np.int32), ids=np.arange(2), images=images, labels=np.arange(2),
                 va=np.zeros((2, 2), np.float32))  # fmt: skip
    assert np.shares_memory(batch_tensors(rows, NoCopies()).images.numpy(), images)
    outputs = {"probs": torch.zeros(2)}
    assert NoCopies().outward(outputs)()["probs"] is outputs["probs"]


def test_starting_the_engine_compiles_nothing(runs: Path) -> None:
    assert not (runs / "extensions").exists()


def test_deepspeed_is_told_the_models_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods of one GPU that share a host's address: Ray says local rank 1, the pod sees GPU 0 alone."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    _prepare_device(torch.device("cpu"))
    assert os.environ["LOCAL_RANK"] == "1"
    _prepare_device(torch.device("cuda:0"))
    assert os.environ["LOCAL_RANK"] == "0"


@pytest.mark.parametrize(("use_gpu", "probed"), [(True, "False"), (False, "True")])
def test_deepspeeds_operators_are_looked_for_only_where_one_of_them_would_be_compiled(
    use_gpu: bool, probed: str
) -> None:
    """Each look runs compilers, and warns where there is no nvcc."""
    program = (
        f"from ldlva_dist.training.engine import import_deepspeed\nmodule = import_deepspeed({use_gpu})\n"
        "print('__compatible_ops__' in vars(module.ops))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == probed
