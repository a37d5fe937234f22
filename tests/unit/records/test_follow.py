"""The follower of a run's metrics."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from ldlva_dist.errors import ClusterError
from ldlva_dist.records import follow
from ldlva_dist.records.follow import Follower

LIMIT_S = 20.0


def write(run: Path, *steps: int, end: str = "") -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in steps) + end)


def test_only_lines_written_after_the_start_are_passed_on_each_of_them_once(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    seen: list[int] = []
    arrived = threading.Event()

    def keep(metrics: dict[str, Any]) -> None:
        seen.append(metrics["step"])
        arrived.set()

    with Follower(str(tmp_path), keep):
        write(tmp_path, 10, 20, 30)
        assert arrived.wait(LIMIT_S)
        write(tmp_path, 10, 20, 30, 40)
    assert seen == [30, 40]


def test_a_run_that_has_written_nothing_yet_is_followed_from_its_first_line(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    with Follower(str(tmp_path), seen.append):
        write(tmp_path, 1)
    assert seen == [{"step": 1}]


def test_a_line_that_is_half_written_is_left_for_later(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    with Follower(str(tmp_path), seen.append):
        write(tmp_path, 1, end='{"step": 2')
    assert seen == [{"step": 1}]


def test_a_store_that_fails_for_a_while_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read here is this process's memory at address 0, in the file's place."""
    monkeypatch.setattr(follow, "POLL_S", 0.02)
    seen: list[dict[str, Any]] = []
    with Follower(str(tmp_path), seen.append) as follower:
        (tmp_path / "metrics.jsonl").symlink_to("/proc/self/mem")
        with pytest.raises(ClusterError):
            follower._lines()
        follower._thread.join(timeout=1.0)
        assert follower._thread.is_alive()
        (tmp_path / "metrics.jsonl").unlink()
        write(tmp_path, 1)
    assert seen == [{"step": 1}]
