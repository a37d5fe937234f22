"""The log of a run's metrics on a disk."""

import json
from pathlib import Path

import pytest

from ldlva_dist.errors import RunLost
from ldlva_dist.records.metrics_log import MetricsLog, read_metrics


@pytest.mark.parametrize("instead", [None, "another run's"])
def test_a_file_that_is_gone_or_anothers_takes_no_more_lines(tmp_path: Path, instead: str | None) -> None:
    log = MetricsLog(str(tmp_path), keep_until_step=1)
    log.add({"step": 1})
    file = tmp_path / "metrics.jsonl"
    file.unlink()
    if instead:
        MetricsLog(str(tmp_path), keep_until_step=1).add({"step": 7})
    with pytest.raises(RunLost, match=r"metrics\.jsonl was deleted or replaced while the run wrote it"):
        log.add({"step": 2})
    assert read_metrics(str(tmp_path)) == ([{"step": 7}] if instead else [])


def test_a_file_below_a_folder_that_was_moved_takes_no_more_lines(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    log = MetricsLog(str(tmp_path / "run"), keep_until_step=1)
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(RunLost, match="was deleted or replaced"):
        log.add({"step": 1})
    assert (tmp_path / "moved" / "metrics.jsonl").read_text() == ""


def test_a_log_that_resumes_keeps_the_lines_before_its_step_and_those_that_are_added(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path), keep_until_step=1)
    for step in (1, 2, 3):
        log.add({"step": step, "loss": step / 2})
    log.close()
    resumed = MetricsLog(str(tmp_path), keep_until_step=3)
    assert resumed.last_step == 2
    resumed.add({"step": 3, "loss": 9.0})
    resumed.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 1.0), (3, 9.0)]
