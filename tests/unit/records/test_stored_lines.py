"""A log of lines that cannot be appended to: what is written for a line, and that none is missing at any time."""

import json
import shutil
from pathlib import Path

import pytest

from ldlva_dist.errors import DataError
from ldlva_dist.records.metrics_log import MetricsLog, read_metrics
from ldlva_dist.records.stored_lines import PIECE_LINES, StoredLines

FILE = "metrics.jsonl"


def line(step: int) -> str:
    return json.dumps({"step": step, "loss": 1 / step})


def steps_in(folder: Path) -> list[int]:
    return [metrics["step"] for metrics in read_metrics(str(folder))]


def inodes(folder: Path) -> dict[Path, tuple[int, int]]:
    """A file that was written anew is another one."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.mark.parametrize("checkpoints", [100, 400])
def test_what_is_written_for_a_line_does_not_grow_with_the_number_of_checkpoints(
    tmp_path: Path, checkpoints: int
) -> None:
    """Every one written whole, 100 would write 50 times a line's bytes for it, and 400 would write 200 times."""
    log, lines, written = StoredLines(str(tmp_path), FILE, []), 0, 0
    for _ in range(checkpoints):
        before = inodes(tmp_path)
        for _ in range(5):
            lines += 1
            log.add(line(lines))
        log.flush()
        written += sum(path.stat().st_size for path, node in inodes(tmp_path).items() if before.get(path) != node)
        assert len(list(tmp_path.iterdir())) <= 2 + lines / 8 / PIECE_LINES + 1
    log.close()
    assert steps_in(tmp_path) == list(range(1, lines + 1))
    assert written < 20 * (tmp_path / FILE).stat().st_size


def test_lines_can_be_read_after_every_flush_and_are_one_file_in_the_end(tmp_path: Path) -> None:
    log, had_pieces = StoredLines(str(tmp_path), FILE, []), 0
    for step in range(1, 3 * PIECE_LINES):
        log.add(line(step))
        assert steps_in(tmp_path) == list(range(1, step))
        log.flush()
        assert steps_in(tmp_path) == list(range(1, step + 1))
        had_pieces += len(list(tmp_path.iterdir())) > 1
    assert had_pieces > PIECE_LINES
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_text() == "".join(line(step) + "\n" for step in range(1, 3 * PIECE_LINES))


def test_a_death_between_the_file_and_its_pieces_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Wherever a flush ends, what stood there before it may stand there still."""
    here, died = tmp_path / "run", tmp_path / "died"
    log = StoredLines(str(here), FILE, [])
    for step in range(1, 200):
        log.add(line(step))
        before = tmp_path / "before"
        shutil.rmtree(before, ignore_errors=True)
        shutil.copytree(here, before)
        log.flush()
        deleted = {path.name for path in before.iterdir()} - {path.name for path in here.iterdir()}
        if not deleted:
            continue
        shutil.rmtree(died, ignore_errors=True)
        shutil.copytree(here, died)
        for name in deleted:
            shutil.copy(before / name, died / name)
        assert steps_in(died) == list(range(1, step + 1))
        resumed = MetricsLog(str(died), keep_until_step=step - 3)
        resumed.add({"step": step, "loss": 0.0})
        resumed.close()
        assert steps_in(died) == [*range(1, step - 3), step]
        assert [path.name for path in died.iterdir()] == [FILE]
    assert died.exists()


def test_a_file_that_cannot_be_written_leaves_its_pieces(tmp_path: Path) -> None:
    log, file, aside = StoredLines(str(tmp_path / "run"), FILE, []), tmp_path / "run" / FILE, tmp_path / "aside"
    for step in range(1, 20):
        log.add(line(step))
        log.flush()
    file.rename(aside)
    file.mkdir()
    with pytest.raises(DataError):
        log.close()
    file.rmdir()
    aside.rename(file)
    assert len(file.read_text().splitlines()) < 19
    assert steps_in(tmp_path / "run") == list(range(1, 20))


def test_pieces_of_a_line_that_was_left_are_not_read_by_the_one_that_goes_on(tmp_path: Path) -> None:
    log = StoredLines(str(tmp_path), FILE, [line(step) for step in range(1, 101)])
    for step in range(101, 111):
        log.add(line(step))
        log.flush()
    assert len(list(tmp_path.iterdir())) > 1
    again = StoredLines(str(tmp_path), FILE, [line(step) for step in range(1, 91)])
    assert steps_in(tmp_path) == list(range(1, 91))
    again.add(line(300))
    again.flush()
    assert steps_in(tmp_path) == [*range(1, 91), 300]


def test_other_files_of_the_folder_are_no_pieces(tmp_path: Path) -> None:
    for name in ("metrics-old.jsonl", "metrics-1.jsonl", "other-00001.jsonl", "metrics-00001.jsonl.bak"):
        (tmp_path / name).write_text(line(500) + "\n")
    log = MetricsLog(str(tmp_path), keep_until_step=1)
    log.add({"step": 1})
    log.close()
    assert steps_in(tmp_path) == [1]
    assert len(list(tmp_path.iterdir())) == 5
