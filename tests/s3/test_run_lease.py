"""One job at a time in a run's folder, on a real store, whose own clock says how old a lease is."""

import dataclasses
import threading
import time

import pytest

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError, DataError, RunLost
from ldlva_dist.run import lease as run_lease
from ldlva_dist.run.lease import Claim, Holder, Lease, leased
from ldlva_dist.storage import s3
from testing.s3_store import Swift

ELSEWHERE = dataclasses.replace(Holder.here(), host="other", machine="another start of another machine")


@pytest.fixture(autouse=True)
def fast(swift: Swift, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store counts in seconds, so shorter is not possible."""
    monkeypatch.setattr(run_lease, "BEAT_S", 1.0)
    monkeypatch.setattr(run_lease, "LOOK_S", 0.1)
    monkeypatch.setattr(run_lease, "SETTLE_S", 0.3)


def test_an_object_that_is_there_is_left_as_it_is_and_renewed_by_the_stores_clock() -> None:
    uri = "s3://faces/single"
    s3.create_object(uri, b"first")
    s3.create_object(uri, b"second")
    assert s3.read(uri) == b"first"
    written, now = s3.object_times(uri)
    assert abs(now - written) <= 2
    time.sleep(1.1)  # its clock has no fractions
    s3.touch_object(uri)
    assert s3.object_times(uri)[0] > written
    assert s3.read(uri) == b"first"
    for ask in (s3.touch_object, s3.object_times):
        with pytest.raises(DataError, match="there is no file"):
            ask("s3://faces/none")


def test_a_second_job_is_refused_one_that_is_gone_followed_and_a_lost_lease_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = "s3://faces/runs/one"
    with leased(folder, ELSEWHERE) as lease:
        with pytest.raises(ClusterError, match=r"another job is running in s3://faces/runs/one \(process \d+ on other"):
            leased(folder).__enter__()
        assert storage.list_folder(folder) == [".lease-000001"]
        lease.claim.require()
    assert storage.list_folder(folder) == []

    gone = Claim(folder=folder, number=1, holder=ELSEWHERE)
    storage.create(gone.uri, gone.text)
    monkeypatch.setattr(run_lease, "EXPIRES_S", 3.0)
    began = time.monotonic()
    with leased(folder) as lease:
        assert 1.0 < time.monotonic() - began < 10
        assert storage.list_folder(folder) == [".lease-000002"]
        with pytest.raises(RunLost, match="has taken over"):
            gone.require()
    with leased(folder) as lease:
        storage.delete_folder(folder)
        with pytest.raises(RunLost, match="was deleted or moved away"):
            lease.claim.require()


def test_of_two_that_begin_at_the_same_instant_one_wins() -> None:
    start, all_tried = threading.Barrier(3), threading.Barrier(3)
    won, refused = list[Lease](), list[str]()

    def job() -> None:
        start.wait()
        try:
            with leased("s3://faces/runs/two") as lease:
                won.append(lease)
                all_tried.wait(60)
        except ClusterError as error:
            refused.append(str(error))
            all_tried.wait(60)

    threads = [threading.Thread(target=job) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(refused) == 2
    assert storage.list_folder("s3://faces/runs/two") == []
