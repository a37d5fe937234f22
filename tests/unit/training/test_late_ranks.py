"""A rank that does not take part is named, with what the others were doing."""

import asyncio
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from ldlva_dist.errors import ClusterError
from ldlva_dist.method.uncertainty_table import UncertaintyTable
from ldlva_dist.run import control
from ldlva_dist.run.control import RunControl
from ldlva_dist.training.late_ranks import named_waits
from testing.forked_ranks import run_ranks


def test_a_rank_that_does_not_take_part_in_a_collective_is_named(tmp_path: Path) -> None:
    run_ranks(_rank, (str(tmp_path),), 2)
    said = (tmp_path / "said").read_text()
    assert said.startswith("rank 0 waited in row_routes.send_ids: ranks [1] did not take part (")
    assert "Timed out waiting" in said


def _rank(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=0.5))
    table = UncertaintyTable(10, initial_logit=0.0, lr=0.1, group=group)  # pyright: ignore[reportArgumentType]
    if rank == 0:
        with pytest.raises(ClusterError) as caught, named_waits(lambda place, rank: [1 - rank]):
            table.read(table.route(np.arange(3)))
        Path(folder, "said").write_text(str(caught.value))
    dist.barrier()
    dist.destroy_process_group()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), named_waits(lambda place, rank: pytest.fail("asked")):
        raise RuntimeError("shapes do not fit")


def test_of_the_ranks_that_wait_the_one_that_does_not_say_so_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 0.05)

    async def ask() -> list[list[int]]:
        run = RunControl()
        first = await asyncio.gather(*(run.find_late("step.step", rank, 4) for rank in (0, 3)))
        await asyncio.sleep(0.2)
        again = await asyncio.gather(*(run.find_late("step.step", rank, 4) for rank in (1, 2, 3)))
        return [*first, *again]

    assert asyncio.run(ask()) == [[1, 2], [1, 2], [0], [0], [0]]


def test_a_request_to_stop_and_sentences_reach_those_who_wait_for_them() -> None:
    async def talk() -> tuple[list[str], bool, bool]:
        run = RunControl()
        heard, stopping = asyncio.ensure_future(run.hear()), asyncio.ensure_future(run.stopping())
        await asyncio.sleep(0)
        before = heard.done() or stopping.done()
        await run.tell("one")
        await run.stop()
        await stopping
        return await heard, before, stopping.done()

    assert asyncio.run(talk()) == (["one"], False, True)
