"""What a person sees of a run: the line, the log, the pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldlva_dist import storage
from ldlva_dist.errors import DataError
from ldlva_dist.records import metrics_log
from ldlva_dist.records.metrics_log import MetricsLog, read_metrics
from ldlva_dist.records.trackers import open_tracker
from ldlva_dist.reporting.contact_sheet import DoubtfulFace, draw_contact_sheet
from ldlva_dist.reporting.curves import draw_curves
from ldlva_dist.reporting.metrics_line import format_line, format_seconds

LDLVA_LINE = {
    "step": 120,
    "steps": 1400,
    "epoch": 3.25,
    "samples_per_second": 1234.4,
    "loss": 1.5,
    "uncertainty_mean": 0.4567,
    "staleness_mean": 41.2,
    "seconds_left": 133.4,
}


def line(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "steps": 100, "epoch": step / 10, "loss": 1 / step, **values}


def test_a_line_says_epoch_step_speed_loss_uncertainty_staleness_and_time_left() -> None:
    assert format_line(LDLVA_LINE) == (
        "epoch  3.25  step  120/1400   1,234 samples/s  loss 1.5000  uncertainty 0.457  staleness   41  left    2:13"
    )


def test_a_line_without_neighbours_leaves_their_figures_out() -> None:
    plain = {key: value for key, value in LDLVA_LINE.items() if "uncertainty" not in key and "staleness" not in key}
    assert format_line(plain | {"holdout_accuracy": 0.5}) == (
        "epoch  3.25  step  120/1400   1,234 samples/s  loss 1.5000  left    2:13  holdout accuracy 0.500"
    )
    assert format_line({}) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (3599, "59:59"),
        (7385, "2:03:05"),
        (float("inf"), None),
        (None, None),
    ],
)
def test_seconds_read_as_a_clock(seconds: float | None, text: str | None) -> None:
    assert format_seconds(seconds) == text


def test_a_resumed_log_drops_the_steps_that_are_done_again(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path), 1)
    for step in (20, 40, 60):
        log.add(line(step))
    # Killed in the middle of a line: neither flushed nor closed.
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8')

    log = MetricsLog(str(tmp_path), 41)
    assert [entry["step"] for entry in read_metrics(str(tmp_path))] == [20, 40]
    log.add(line(60, loss=7.0))
    log.close()

    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(entry)["step"] for entry in text.splitlines()] == [20, 40, 60]
    assert read_metrics(str(tmp_path))[-1]["loss"] == 7.0


def test_a_fresh_log_drops_what_an_earlier_run_left(tmp_path: Path) -> None:
    for _ in range(2):
        log = MetricsLog(str(tmp_path), 1)
        log.add(line(1))
        log.close()
    assert len(read_metrics(str(tmp_path))) == 1


def test_every_line_is_visible_at_once(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path), 1)
    assert read_metrics(str(tmp_path)) == []
    log.add(line(20))
    assert read_metrics(str(tmp_path)) == [line(20)]
    log.close()


def test_tensorboard_shows_the_scalars_of_the_surviving_steps_only(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps, loss in ((1, (20, 40, 60), 1.0), (41, (60,), 2.0)):
        log = MetricsLog(str(tmp_path), start, open_tracker("tensorboard", str(tmp_path), {}, start))
        for step in steps:
            log.add(line(step, loss=loss))
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(20, 1.0), (40, 1.0), (60, 2.0)]
    assert "steps" not in events.Tags()["scalars"]


def test_a_log_in_an_object_store_is_written_anew_by_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    objects: dict[str, bytes] = {}
    monkeypatch.setattr(storage, "write_bytes", lambda uri, data: objects.__setitem__(uri, data))
    monkeypatch.setattr(storage, "read_bytes", lambda uri: objects[uri])
    monkeypatch.setattr(storage, "exists", lambda uri: uri in objects)
    monkeypatch.setattr(storage, "list_folder", lambda uri: [key.removeprefix(f"{uri}/") for key in objects])
    monkeypatch.setattr(metrics_log, "REMOTE_FLUSH_S", 1e9)

    log = MetricsLog("s3://bucket/run", 1)
    log.add(line(20))
    assert read_metrics("s3://bucket/run") == []
    log.flush()
    assert read_metrics("s3://bucket/run") == [line(20)]
    log.add(line(40))
    log.close()
    MetricsLog("s3://bucket/run", 21).close()

    assert objects == {"s3://bucket/run/metrics.jsonl": (json.dumps(line(20)) + "\n").encode()}


@pytest.mark.parametrize("lines", [1000, 8000])
def test_a_log_in_an_object_store_writes_no_more_for_a_line_of_a_long_run(
    monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """By the clock alone it would write all of it every time: 4,000 lines for a line of a run of 8,000."""
    written: list[int] = []
    monkeypatch.setattr(storage, "write_bytes", lambda uri, data: written.append(len(data)))
    monkeypatch.setattr(storage, "exists", lambda uri: False)
    monkeypatch.setattr(storage, "list_folder", lambda uri: [])
    monkeypatch.setattr(metrics_log, "REMOTE_FLUSH_S", 0.0)
    log = MetricsLog("s3://bucket/run", 1)
    for step in range(1, lines + 1):
        log.add(line(step))
    log.close()
    assert sum(written) < 12 * lines * len(json.dumps(line(lines)))


def test_curves_have_a_panel_for_each_thing_measured(tmp_path: Path) -> None:
    ours = [line(step, uncertainty_mean=0.4, staleness_mean=step) for step in range(1, 90)]
    plain = [line(step, holdout_accuracy=0.5) for step in range(1, 5)]
    draw_curves({"LDLVA": ours, "cross-entropy": plain}, str(tmp_path / "four.png"), title="two runs")
    draw_curves({"run": [line(1)]}, str(tmp_path / "one.png"), title="one point")

    four, one = (np.asarray(Image.open(tmp_path / name)) for name in ("four.png", "one.png"))
    assert four.shape[0] > 1.5 * one.shape[0]
    assert four.shape[1] == 2 * one.shape[1]


def test_curves_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no metrics to draw"):
        draw_curves({"run": []}, str(tmp_path / "none.png"), title="nothing")
    assert list(tmp_path.iterdir()) == []


def test_a_contact_sheet_grows_by_a_row_for_every_four_faces(tmp_path: Path) -> None:
    def face(index: int) -> DoubtfulFace:
        image = np.full((8, 8, 1 if index % 2 else 3), 128, dtype=np.uint8)
        truth = np.array([0.9, 0.1]) if index else None
        return DoubtfulFace(
            sample=index, image=image, given=0, opinion=np.array([0.2, 0.8]), uncertainty=0.9, truth=truth
        )

    heights = []
    for count in (4, 5):
        faces = [face(index) for index in range(count)]
        draw_contact_sheet(faces, ["happy", "sad"], str(tmp_path / "sheet.png"), title="doubtful")
        heights.append(Image.open(tmp_path / "sheet.png").height)
    assert heights[1] - heights[0] == pytest.approx(1.72 * 150, abs=1)
    with pytest.raises(DataError, match="at least one face"):
        draw_contact_sheet([], ["happy"], str(tmp_path / "none.png"), title="nothing")
