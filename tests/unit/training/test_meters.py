"""The numbers of a log line: over two ranks as over one list of everything that happened."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ldlva_dist.bank.wire import Traffic
from ldlva_dist.messages import Batch, Neighbors
from ldlva_dist.training.device.usage import usage_metrics, usage_of
from ldlva_dist.training.meters import EDGES, PARTS, Meters, count_ages, percentile
from testing.forked_ranks import run_ranks

STEPS, ROWS, K, RANKS, FIRST = 5, 6, 3, 2, 9000
GRADIENTS_S = 1e-9
"""Less than any step that is marked here takes."""


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("high", [3, 20, 400, 10_000_000])
def test_a_percentile_is_the_sorted_lists_or_at_most_5_percent_more(share: float, high: int) -> None:
    ages = np.random.default_rng(high).integers(2, high, 5001)
    exact = np.sort(ages)[int(np.ceil(share * len(ages))) - 1]
    found = percentile(count_ages(ages), share)
    assert exact <= found <= exact * 1.05 + (1 if exact > 21 else 0)
    assert exact > 21 or found == exact


def test_counts_of_two_ranks_add_up() -> None:
    first, second = np.random.default_rng(0).integers(2, 1000, (2, 777))
    np.testing.assert_array_equal(count_ages(first) + count_ages(second), count_ages(np.append(first, second)))
    assert len(count_ages(first)) == len(EDGES)


def test_the_line_has_the_fullest_gpu_and_the_mean_of_how_busy_they_are() -> None:
    usages = [usage_of(3_000_000_000, 40), usage_of(5_000_000_000, 100), usage_of(1, 7)]
    assert usage_metrics(usages) == {"gpu_memory_bytes": 5e9, "gpu_busy": pytest.approx(0.49)}
    assert usage_metrics([usage_of(12, 0)]) == {"gpu_memory_bytes": 12.0, "gpu_busy": 0.0}


def test_a_gpu_that_does_not_tell_how_busy_it_is_leaves_memory_alone_in_the_line() -> None:
    """A part of a GPU (MIG) has no such number, nor has any without nvidia-ml-py."""
    assert usage_metrics([usage_of(3, 40), usage_of(5, None)]) == {"gpu_memory_bytes": 5.0}


def _happened(rank: int) -> list[tuple[Batch, Neighbors, dict[str, torch.Tensor]]]:
    """What a rank is told in five steps."""
    random = np.random.default_rng(rank)
    steps = []
    for step in range(FIRST, FIRST + STEPS):
        versions = random.integers(0, FIRST - 1, (ROWS, K))
        versions[random.random((ROWS, K)) < 0.3] = -1
        batch = Batch(
            step=step,
            positions=np.arange(ROWS, dtype=np.int32),
            ids=np.arange(ROWS),
            images=np.zeros((ROWS, 1, 1, 1), dtype=np.uint8),
            labels=np.zeros(ROWS, dtype=np.int64),
            va=np.zeros((ROWS, 2), dtype=np.float32),
        )
        neighbors = Neighbors(
            ids=np.zeros((ROWS, K), dtype=np.int64),
            va=np.zeros((ROWS, K, 2), dtype=np.float32),
            labels=np.zeros((ROWS, K), dtype=np.int64),
            probs=np.zeros((ROWS, K, 1), dtype=np.float32),
            features=np.zeros((ROWS, K, 1), dtype=np.float32),
            versions=versions,
        )
        steps.append((batch, neighbors, {"loss": torch.tensor(float(random.random()))}))
    return steps


def _rank(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    meters = Meters(batch_size=RANKS * ROWS, num_rows=1000, total_steps=20_000, device=torch.device("cpu"))
    for batch, neighbors, terms in _happened(rank):
        meters.add(terms, batch, neighbors)
        meters.clock.mark("network", gradients_s=GRADIENTS_S)
    traffic = Traffic(busy_s=0.01 * (rank + 1), shard_s=0.02, bytes_read=1000 * (rank + 1), bytes_written=10)
    first = meters.drain(FIRST + STEPS, traffic.drain())
    assert traffic == Traffic()
    for batch, neighbors, terms in _happened(rank)[:1]:
        meters.add(terms, batch, neighbors)
    second = meters.drain(FIRST + STEPS + 1, traffic.drain())
    Path(folder, str(rank)).write_text(json.dumps([first, second]))
    usage = usage_of(3_000_000_000 + rank, 40 + 20 * rank)
    Path(folder, f"gpus-{rank}").write_text(json.dumps([usage, meters._gathered(usage)]))
    dist.destroy_process_group()


def test_a_log_line_is_about_all_ranks_since_the_last_line(tmp_path: Path) -> None:
    run_ranks(_rank, (str(tmp_path),), RANKS)
    lines = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(RANKS)]
    for mine, other in zip(*lines, strict=True):
        own = {"samples_per_second", "seconds_left", "lookup_wait_share"}  # each rank's clock is its own
        assert {key: mine[key] for key in mine if key not in own} == {
            key: other[key] for key in other if key not in own
        }

    for found, steps in zip(lines[0], (STEPS, 1), strict=True):
        told = [step for rank in range(RANKS) for step in _happened(rank)[:steps]]
        ages = np.concatenate([batch.step - near.versions[near.versions >= 0] for batch, near, _ in told])
        versions = np.stack([near.versions for _, near, _ in told])
        assert found["loss"] == pytest.approx(sum(float(terms["loss"]) for _, _, terms in told) / steps)
        assert found["never_written"] == pytest.approx((versions < 0).mean())
        assert found["staleness_mean"] == pytest.approx(ages.mean())
        assert found["staleness_max"] == ages.max()
        for name, share in (("staleness_p50", 0.5), ("staleness_p95", 0.95)):
            exact = np.sort(ages)[int(np.ceil(share * len(ages))) - 1]
            assert exact <= found[name] <= 1.05 * exact + 1
    gpus = [json.loads((tmp_path / f"gpus-{rank}").read_text()) for rank in range(RANKS)]
    assert all(gathered == [usage for usage, _ in gpus] for _, gathered in gpus)
    for found in lines[0]:  # every moment belongs to one part
        longest = 1000 * RANKS * ROWS / found["samples_per_second"]
        assert 0 < sum(found[f"{part}_ms"] for part in PARTS) <= longest
    assert lines[0][0]["gradients_ms"] == pytest.approx(1000 * GRADIENTS_S)
    assert lines[0][0]["network_ms"] > 0 == lines[0][1]["network_ms"] == lines[0][0]["stream_ms"]
    assert lines[0][0]["lookup_ms"] == pytest.approx(1000 * 0.03 / (RANKS * STEPS))
    assert lines[0][0]["lookup_shard_ms"] == pytest.approx(1000 * 0.04 / (RANKS * STEPS))
    assert lines[0][0]["lookup_bytes_per_step"] == 3000 / STEPS
    assert lines[0][0]["write_bytes_per_step"] == 20 / STEPS
    assert lines[0][1]["lookup_bytes_per_step"] == 0
