"""One job at a time in a run's folder, on a disk: who is refused, who takes over, and who notices that he was."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.errors import ClusterError, RunLost
from ldlva_dist.run import lease as run_lease
from ldlva_dist.run.lease import Claim, Holder, Lease, leased

ELSEWHERE = dataclasses.replace(Holder.here(), host="other", machine="another start of another machine")
JOB = """
import sys, threading
from ldlva_dist.run.lease import leased
with leased(sys.argv[1]):
    print("holds", flush=True)
    threading.Event().wait(60)
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths."""
    monkeypatch.setattr(run_lease, "BEAT_S", 0.05)
    monkeypatch.setattr(run_lease, "LOOK_S", 0.01)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _age(folder: Path, seconds: float) -> None:
    """Let the lease be so much older than what is written now."""
    [name] = _names(folder)
    written = (folder / name).stat().st_mtime - seconds
    os.utime(folder / name, (written, written))


def _abandoned(folder: Path, holder: Holder) -> Claim:
    """The claim of a job that does not renew it."""
    folder.mkdir(exist_ok=True)
    claim = Claim(folder=str(folder), number=1, holder=holder)
    (folder / ".lease-000001").write_bytes(claim.text)
    return claim


@pytest.mark.parametrize("holder", [Holder.here(), ELSEWHERE])
def test_a_second_job_is_refused_and_told_by_whom(tmp_path: Path, holder: Holder) -> None:
    with leased(str(tmp_path / "run"), holder):
        before = _names(tmp_path / "run")
        place = rf"another job is running in .*run \(process {os.getpid()} on {holder.host}"
        when = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, last sign of life \d+ s ago"
        with pytest.raises(ClusterError, match=f"{place}, {when}"):
            leased(str(tmp_path / "run")).__enter__()
        assert _names(tmp_path / "run") == before
    with leased(str(tmp_path / "run")):
        pass
    assert _names(tmp_path / "run") == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_lease_is_released_however_a_job_ends(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), leased(str(tmp_path)):
        raise error
    assert _names(tmp_path) == []


def test_a_job_that_was_killed_here_is_followed_at_once_though_nobody_has_buried_it(tmp_path: Path) -> None:
    job = subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert job.stdout.readline() == "holds\n"
    os.kill(job.pid, 9)
    os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is left a zombie
    began = time.monotonic()
    with leased(str(tmp_path)) as lease:
        assert time.monotonic() - began < run_lease.EXPIRES_S / 5
        assert lease.claim.number == 2
        assert _names(tmp_path) == [".lease-000002"]
    job.wait()


def test_a_process_that_was_given_the_number_of_the_dead_one_holds_nothing(tmp_path: Path) -> None:
    _abandoned(tmp_path, dataclasses.replace(Holder.here(), started="1"))
    with leased(str(tmp_path)) as lease:
        assert lease.claim.number == 2


def test_a_job_elsewhere_counts_as_gone_by_the_age_of_its_lease_on_this_disk(tmp_path: Path) -> None:
    _abandoned(tmp_path, ELSEWHERE)
    _age(tmp_path, run_lease.EXPIRES_S + 1)
    with leased(str(tmp_path)) as lease:
        assert lease.claim.number == 2


@pytest.mark.parametrize("age_s", [0.0, -3600.0])
def test_a_lease_that_nobody_renews_is_waited_for_no_longer_than_it_is_good(
    tmp_path: Path, age_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one from the future, as after a clock was set."""
    monkeypatch.setattr(run_lease, "EXPIRES_S", 0.3)
    _abandoned(tmp_path, ELSEWHERE)
    _age(tmp_path, age_s)
    began = time.monotonic()
    with leased(str(tmp_path)) as lease:
        assert lease.claim.number == 2
    assert time.monotonic() - began > 0.2


@pytest.mark.parametrize("is_stale", [False, True])
def test_of_many_that_begin_at_the_same_instant_one_wins(tmp_path: Path, is_stale: bool) -> None:
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        if is_stale:
            _abandoned(folder, dataclasses.replace(Holder.here(), started="1"))
        start, won, refused = threading.Barrier(6), list[Lease](), list[str]()
        all_tried = threading.Barrier(6)

        def job(folder: Path = folder, start=start, all_tried=all_tried, won=won, refused=refused) -> None:
            start.wait()
            try:
                with leased(str(folder)) as lease:
                    won.append(lease)
                    all_tried.wait(30)
            except ClusterError as error:
                refused.append(str(error))
                all_tried.wait(30)

        threads = [threading.Thread(target=job) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert len(refused) == 5
        assert all("another job is running in" in sentence for sentence in refused)
        assert _names(folder) == []


def _until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def _is_lost(lease: Lease) -> bool:
    try:
        lease.require()
    except RunLost:
        return True
    return False


def test_a_job_that_was_suspended_notices_that_another_has_taken_over(tmp_path: Path) -> None:
    suspended = _abandoned(tmp_path, ELSEWHERE)
    _age(tmp_path, run_lease.EXPIRES_S + 1)
    with leased(str(tmp_path)) as mine:
        with pytest.raises(RunLost, match=rf"job \(process {os.getpid()} on .*\) has taken over .* writes nothing"):
            suspended.require()
        awake = Lease(suspended)
        _until(lambda: _is_lost(awake))
        awake.release()
        assert _names(tmp_path) == [".lease-000002"]
        mine.claim.require()
        mine.require()


def test_a_folder_that_is_deleted_under_a_job_is_noticed_and_not_made_again(tmp_path: Path) -> None:
    with leased(str(tmp_path / "run")) as lease:
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(RunLost, match=r"run was deleted or moved away while a job was running in it"):
            lease.claim.require()
        _until(lambda: _is_lost(lease))
    assert not (tmp_path / "run").exists()


def test_a_store_that_does_not_answer_takes_no_lease_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("LDLVA_S3_LIMIT_S", "0.2")
    Claim(folder="s3://bucket/run", number=1, holder=Holder.here()).require()


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.none())
FIELDS = st.fixed_dictionaries({field.name: VALUES for field in dataclasses.fields(Holder)})


@given(content=st.binary() | (VALUES | FIELDS).map(lambda values: json.dumps(values).encode()))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_a_lease_that_says_nothing_is_nobodys_and_not_over(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ".lease-000001").write_bytes(content)
        holder = run_lease._read_holder(folder, 1)
        assert holder is None or not holder.is_gone()
