"""What ranks decide alike when a node will be taken away."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import torch.distributed as dist

from ldlva_dist.training import rank_votes
from ldlva_dist.training.rank_votes import LEAVE_S, Agreement, Verdict

SOON_S, LIMIT_S = 0.5, 30.0


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def decide(agreement: Agreement, saving_s: float = 0.0) -> Verdict:
    return agreement.vote(loss=1.0, uploading=False, saving_s=saving_s)()


def give_notice(monkeypatch: pytest.MonkeyPatch, left_s: float) -> None:
    """Let Ray say that a node goes in so many seconds, whenever it is asked; it is asked at every step."""
    info = SimpleNamespace(preempted_node_ids=["a"], deadline_ms=1000 * (time.time() + left_s))
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: info)
    monkeypatch.setattr(rank_votes, "ASK_RAY_EVERY_S", 0.0)


def test_workers_save_at_the_notice_and_leave_shortly_before_the_node_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    agreement = Agreement(None, save_every_minutes=None)
    assert not decide(agreement).save
    give_notice(monkeypatch, LEAVE_S + SOON_S)
    goes_at = time.monotonic() + LEAVE_S + SOON_S
    first = decide(agreement)
    assert (first.save, first.at_once, first.leave) == (True, True, False)
    assert time.monotonic() < goes_at - LEAVE_S, "this machine stood still"
    while not (verdict := decide(agreement)).leave:
        assert not verdict.save, "one notice is one checkpoint"
        assert not verdict.at_once
        assert time.monotonic() < goes_at, "nobody left"
    assert (verdict.save, verdict.at_once) == (True, True)
    assert time.monotonic() >= goes_at - LEAVE_S - 0.01


def test_where_a_checkpoint_takes_long_workers_leave_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    agreement = Agreement(None, save_every_minutes=None)
    give_notice(monkeypatch, 10 * LEAVE_S)
    assert not decide(agreement, saving_s=2 * LEAVE_S).leave, "not known before"
    assert not decide(agreement, saving_s=2 * LEAVE_S).leave
    assert decide(agreement, saving_s=5 * LEAVE_S).leave


def test_who_has_left_goes_on_where_ray_restarts_nobody_or_the_run_is_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    agreement = Agreement(None, save_every_minutes=None, tell=told.append)
    give_notice(monkeypatch, SOON_S)
    decide(agreement)
    assert decide(agreement).leave
    monkeypatch.setattr(rank_votes, "RESTART_LIMIT_S", 0.0)
    began = time.monotonic()
    agreement.wait_for_restart(30)
    assert time.monotonic() - began < LIMIT_S
    assert told == ["a node goes in 0 s: step 30 is saved, and Ray will start the workers again"]
    assert not decide(agreement).leave, "a node is left once"

    asked = threading.Event()
    monkeypatch.setattr(rank_votes, "_terminated", asked)
    monkeypatch.setattr(rank_votes, "RESTART_LIMIT_S", 100 * LIMIT_S)
    asked.set()
    agreement.wait_for_restart(40)
    assert time.monotonic() - began < 2 * LIMIT_S
