"""What became of a job stands in its folder, and jobs/status.py ends as the job did."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ldlva_dist.errors import ClusterError, DataError, LdlvaError, RunLost, RunStopped, SettingError
from ldlva_dist.run.lease import leased
from ldlva_dist.run.outcome import OUTCOME, Outcome, read_outcome, recorded

ROOT = Path(__file__).parents[3]


def status(folder: Path) -> tuple[int, str, str]:
    command = [sys.executable, "jobs/status.py", "--run", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_finished_job_says_what_it_did(tmp_path: Path) -> None:
    with recorded(str(tmp_path)) as say_done:
        say_done("trained to step 20")
    code, said, _ = status(tmp_path)
    assert code == 0
    assert said.startswith("finished (")
    assert said.endswith("exit code 0): trained to step 20\n")


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (SettingError("a setting"), "failed", 2),
        (DataError("s3://me:secret@store/faces is damaged"), "failed", 3),
        (ClusterError("a node"), "failed", 4),
        (RunStopped("saved after step 3"), "stopped", 130),
        (KeyboardInterrupt(), "stopped", 130),
        (ZeroDivisionError("division by zero"), "failed", 1),
    ],
)
def test_how_a_job_ends_is_its_outcome(tmp_path: Path, error: BaseException, outcome: str, code: int) -> None:
    with pytest.raises(type(error)), recorded(str(tmp_path)):
        raise error
    found = read_outcome(str(tmp_path))
    assert (found.outcome, found.exit_code) == (outcome, code)
    assert str(error) in found.sentence or isinstance(error, KeyboardInterrupt)
    assert "secret" not in found.sentence


def test_status_ends_with_the_jobs_own_code(tmp_path: Path) -> None:
    with pytest.raises(ClusterError), recorded(str(tmp_path)):
        raise ClusterError("the head is gone")
    code, said, _ = status(tmp_path)
    assert code == 4
    assert "failed" in said
    assert "the head is gone" in said


def test_a_job_at_work_is_in_progress_and_the_outcome_before_it_is_gone(tmp_path: Path) -> None:
    (tmp_path / OUTCOME).write_text(json.dumps({"outcome": "failed"}))
    with leased(str(tmp_path)), recorded(str(tmp_path)) as say_done:
        assert not (tmp_path / OUTCOME).exists()
        code, said, _ = status(tmp_path)
        assert code == 5
        assert said.startswith("in progress (")
        say_done("")
    assert read_outcome(str(tmp_path)).outcome == "finished"


def test_a_job_that_was_killed_has_no_outcome_and_status_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = read_outcome(str(tmp_path))
    assert (found.outcome, found.exit_code) == ("failed", 4)
    assert "without a word" in found.sentence


def test_nothing_is_written_into_a_folder_that_is_lost(tmp_path: Path) -> None:
    with pytest.raises(RunLost), recorded(str(tmp_path)):
        raise RunLost("another job has it")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_run_is_a_setting_error(tmp_path: Path) -> None:
    code, _, said = status(tmp_path / "nothing")
    assert code == 2
    assert "--run must be the folder of a run" in said


def test_a_damaged_outcome_is_an_error_of_the_data(tmp_path: Path) -> None:
    (tmp_path / OUTCOME).write_text('{"outcome": "finis')
    with pytest.raises(LdlvaError) as error:
        read_outcome(str(tmp_path))
    assert error.value.exit_code == 3


def test_an_outcome_is_what_it_was(tmp_path: Path) -> None:
    with pytest.raises(DataError), recorded(str(tmp_path)):
        raise DataError("a file")
    assert Outcome(**json.loads((tmp_path / OUTCOME).read_text())) == read_outcome(str(tmp_path))
