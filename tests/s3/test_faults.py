"""What goes wrong between client and store: the right bytes come, or one clear error within the limit; never less."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.storage.s3.body import Body
from testing.s3_store import FaultProxy, Swift

SIZE = 1_000_000
DATA = np.random.default_rng(0).bytes(SIZE)
URI = "s3://faces/faults/file"

SLOW_DOWN = {"kind": "status", "status": 503, "code": "SlowDown"}
PASSING = {
    "a burst of 503": SLOW_DOWN | {"times": 3},
    "a burst of 429": SLOW_DOWN | {"status": 429, "code": "TooManyRequests", "times": 3},
    "500": SLOW_DOWN | {"status": 500, "code": "InternalError"},
    "truncated at once": {"kind": "truncate", "share": 0.0},
    "truncated at 10 %": {"kind": "truncate", "share": 0.1},
    "truncated at 50 %": {"kind": "truncate", "share": 0.5},
    "truncated at 90 %, three times": {"kind": "truncate", "share": 0.9, "times": 3},
    "reset at once": {"kind": "reset", "share": 0.0},
    "reset at 50 %, twice": {"kind": "reset", "share": 0.5, "times": 2},
    "latency": {"kind": "latency", "seconds": 0.5},
    "slow": {"kind": "slow", "bytes_per_s": 2_000_000},
    "stall": {"kind": "stall", "share": 0.5, "seconds": 0.5},
}


@pytest.fixture(scope="module", autouse=True)
def _file(swift: Swift) -> None:
    storage.write_bytes(URI, DATA)


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_read_gets_over_what_passes(faults: FaultProxy, fault: dict[str, Any]) -> None:
    faults.set(dict(fault))
    assert storage.read_range(URI, 100, SIZE - 200) == DATA[100:-100]
    faults.set(dict(fault))
    assert storage.read_bytes(URI) == DATA


@pytest.mark.parametrize("kind", ["truncate", "reset"])
def test_a_read_that_broke_off_asks_for_the_rest_only(faults: FaultProxy, kind: str) -> None:
    faults.set({"kind": kind, "share": 0.5, "times": 2})
    assert storage.read_range(URI, 1000, 800_000) == DATA[1000:801_000]
    first, *others = faults.requests()
    assert first["range"] == "bytes=1000-800999"
    begins = [int(request["range"].removeprefix("bytes=").partition("-")[0]) for request in others]
    assert [request["range"].partition("-")[2] for request in others] == ["800999"] * 2
    assert 1000 < begins[0] < begins[1]


def test_an_object_written_anew_between_two_tries_is_not_mixed(faults: FaultProxy) -> None:
    uri = "s3://faces/faults/anew"
    storage.write_bytes(uri, DATA)
    faults.set({"kind": "truncate", "share": 0.5})
    body = Body(uri, 0, None)
    with pytest.raises(ConnectionError, match="broke off 500000 bytes"):
        body.fetch()
    storage.write_bytes(uri, DATA[::-1])
    with pytest.raises(DataError, match="faults/anew was written anew while it was read"):
        body.fetch()


def test_a_bit_that_flips_on_the_way_is_seen_in_a_whole_read(faults: FaultProxy) -> None:
    faults.set({"kind": "bitflip", "share": 0.3})
    with pytest.raises(DataError, match="faults/file is damaged"):
        storage.read_bytes(URI)


LASTING = {
    "503": SLOW_DOWN | {"times": -1},
    "truncation at once": {"kind": "truncate", "share": 0.0, "times": -1},
    "reset at once": {"kind": "reset", "share": 0.0, "times": -1},
    "a stall": {"kind": "stall", "share": 0.2, "seconds": 20, "times": -1},
    "a trickle": {"kind": "slow", "bytes_per_s": 20_000, "times": -1},
}


@pytest.mark.parametrize("fault", LASTING.values(), ids=LASTING.keys())
def test_what_lasts_is_a_cluster_error_within_the_limit(
    faults: FaultProxy, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDLVA_S3_LIMIT_S", "1")
    faults.set(dict(fault))
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"the store failed at s3://faces/faults/file: \S"):
        storage.read_range(URI, 0, 100_000)
    assert time.monotonic() - began < 10


def test_expired_credentials_are_a_setting_error_at_once(faults: FaultProxy) -> None:
    faults.set({"kind": "status", "status": 400, "code": "ExpiredToken", "times": -1})
    with pytest.raises(SettingError, match=r"credentials in use must allow access to .* ExpiredToken"):
        storage.read_range(URI, 0, 10)
    assert len(faults.requests()) == 2, "one, and one to learn the reason"


WRITING = {
    "a burst of 503": SLOW_DOWN | {"times": 2},
    "an answer that is lost": {"kind": "reset", "share": 0.0},
    "a bit that flips": {"kind": "bitflip", "share": 0.5},
}


@pytest.mark.parametrize("fault", WRITING.values(), ids=WRITING.keys())
@pytest.mark.parametrize("size", [SIZE, 20_000_000], ids=["one request", "in parts"])
def test_a_write_gets_over_what_passes(faults: FaultProxy, fault: dict[str, Any], size: int, tmp_path: Path) -> None:
    data = (DATA * 20)[:size]
    (tmp_path / "file").write_bytes(data)
    faults.set(fault | {"method": "PUT"})
    storage.upload(str(tmp_path / "file"), "s3://faces/faults/written")
    faults.set()
    assert storage.read_bytes("s3://faces/faults/written") == data


def test_a_write_that_cannot_be_done_leaves_what_was_there(faults: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "s3://faces/faults/kept"
    storage.write_bytes(uri, b"old")
    monkeypatch.setenv("LDLVA_S3_LIMIT_S", "0.5")
    faults.set(SLOW_DOWN | {"method": "PUT", "times": -1})
    with pytest.raises(ClusterError, match="faults/kept: SlowDown"):
        storage.write_bytes(uri, b"new")
    faults.set()
    assert storage.read_bytes(uri) == b"old"


def test_a_store_that_is_killed_and_comes_back_lost_nothing(swift: Swift, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDLVA_S3_LIMIT_S", "60")
    swift.kill()
    reader = _Reader()
    reader.start()
    swift.start()
    reader.join()
    assert reader.data == DATA


class _Reader(threading.Thread):
    data = b""

    def run(self) -> None:
        self.data = storage.read_range(URI, 0, SIZE)
