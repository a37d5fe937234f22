"""The door to an object store, against a real one."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from ldlva_dist import storage
from ldlva_dist.doctor import store
from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.records.metrics_log import MetricsLog, read_metrics
from ldlva_dist.storage import s3
from ldlva_dist.storage.s3.objects import PART_BYTES
from testing.s3_store import STRANGER, FaultProxy, Swift

FOLDER = "s3://faces/store"
DATA = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(autouse=True)
def _store(swift: Swift, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDLVA_S3_LIMIT_S", "2")


def test_what_is_written_is_read_back() -> None:
    uri = storage.join(FOLDER, "deep", "file.bin")
    storage.write_bytes(uri, DATA)
    assert storage.read_bytes(uri) == DATA
    assert storage.read_range(uri, 1000, 2000) == DATA[1000:3000]
    assert storage.read_range(uri, 1000, 0) == b""
    storage.write_bytes(uri, b"")
    assert storage.read_bytes(uri) == b""


@pytest.mark.parametrize(("offset", "size", "got"), [(299_990, 20, 10), (300_000, 1, 0), (400_000, 5, 0)])
def test_a_range_beyond_the_end_is_an_error_that_names_the_file(offset: int, size: int, got: int) -> None:
    uri = storage.join(FOLDER, "short.bin")
    storage.write_bytes(uri, DATA)
    with pytest.raises(DataError, match=rf"short\.bin ends early: wanted {size} bytes at {offset}, got {got}"):
        storage.read_range(uri, offset, size)


def test_folders_are_listed_and_deleted_like_local_ones() -> None:
    folder = storage.join(FOLDER, "tree")
    for name in ("a", "b/one", "b/two", "c"):
        storage.write_bytes(storage.join(folder, name), b"x")
    storage.write_bytes(folder + "-other", b"x")
    assert storage.list_folder(folder) == ["a", "b", "c"]
    assert [storage.exists(storage.join(folder, name)) for name in ("a", "b", "b/one", "on", "d")] == [
        *(True, True, True),
        *(False, False),
    ]
    storage.delete_file(storage.join(folder, "a"))
    storage.delete_folder(storage.join(folder, "b"))
    assert storage.list_folder(folder) == ["c"]
    storage.delete_folder(folder)
    storage.delete_folder(folder)
    storage.delete_file(storage.join(folder, "a"))
    assert storage.list_folder(folder) == []
    assert storage.exists(folder + "-other")


def test_a_large_file_is_sent_in_parts_and_appears_whole(tmp_path: Path) -> None:
    data = DATA * 120
    assert len(data) > 2 * PART_BYTES
    (tmp_path / "large").write_bytes(data)
    storage.upload(str(tmp_path / "large"), storage.join(FOLDER, "large"))
    assert storage.read_bytes(storage.join(FOLDER, "large")) == data


def test_an_upload_that_fails_midway_leaves_nothing() -> None:
    class Breaks(io.BytesIO):
        passes = 0

        def seek(self, offset: int, whence: int = 0) -> int:
            self.passes += 1
            return super().seek(offset, whence)

        def read(self, size: int | None = -1) -> bytes:
            if self.passes and self.tell():
                raise OSError("the disk broke")
            return super().read(size)

    uri = storage.join(FOLDER, "never")
    with pytest.raises(OSError, match="the disk broke"):
        s3.write_object(uri, Breaks(DATA * 120), len(DATA) * 120)
    assert not storage.exists(uri)
    begun = s3.client.client().list_multipart_uploads(Bucket="faces").get("Uploads", [])
    assert "store/never" not in {upload["Key"] for upload in begun}


def test_a_damaged_object_is_not_taken_for_a_whole_one(swift: Swift) -> None:
    uri = storage.join(FOLDER, "damaged")
    storage.write_bytes(uri, DATA)
    metadata = s3.client.client().head_object(Bucket="faces", Key="store/damaged")["Metadata"]
    s3.client.client().put_object(Bucket="faces", Key="store/damaged", Body=DATA[1:] + b"x", Metadata=metadata)
    with pytest.raises(DataError, match=r"store/damaged is damaged: .* checksum"):
        storage.read_bytes(uri)


def test_parquet_is_written_and_read_by_columns_through_the_door() -> None:
    uri = storage.join(FOLDER, "table.parquet")
    table = pa.table({"id": np.arange(300_000), "value": np.random.default_rng(0).random(300_000)})
    filesystem, path = storage.resolve(uri)
    pq.write_table(table, path, filesystem=filesystem, row_group_size=100_000)
    with storage.open_input(uri) as stream, pq.ParquetFile(stream) as file:
        assert file.read_row_groups([1], columns=["id"]).equals(table.select(["id"]).slice(100_000, 100_000))
    with pytest.raises(DataError, match=r"no file .*none\.parquet"):
        storage.open_input(storage.join(FOLDER, "none.parquet"))


def test_the_file_system_for_libraries_survives_pickling_and_copies_folders(tmp_path: Path) -> None:
    for name in ("a", "b/one"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(name.encode())
    filesystem, path = storage.resolve(storage.join(FOLDER, "copied"))
    filesystem = pickle.loads(pickle.dumps(filesystem))
    fs.copy_files(str(tmp_path / "out"), path, destination_filesystem=filesystem)
    assert storage.read_bytes(storage.join(FOLDER, "copied", "b", "one")) == b"b/one"
    fs.copy_files(path, str(tmp_path / "back"), source_filesystem=filesystem)
    assert (tmp_path / "back" / "b" / "one").read_bytes() == b"b/one"
    kinds = {info.base_name: info.type for info in filesystem.get_file_info(fs.FileSelector(path))}
    assert kinds == {"a": fs.FileType.File, "b": fs.FileType.Directory}
    filesystem.delete_dir(path)
    assert filesystem.get_file_info(path).type == fs.FileType.NotFound


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match=r"no file s3://faces/store/missing"):
        storage.read_bytes(storage.join(FOLDER, "missing"))


def test_a_folder_that_can_be_written_stays_empty() -> None:
    storage.check_writable(storage.join(FOLDER, "new"))
    assert not storage.exists(storage.join(FOLDER, "new"))


def test_credentials_region_and_endpoint_may_come_from_a_profile(
    swift: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(storage.join(FOLDER, "file"), b"x")
    secret = f"aws_access_key_id = {os.environ['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = bench-secret\n"
    (tmp_path / "credentials").write_text(f"[lab]\n{secret}")
    (tmp_path / "config").write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {swift.endpoint}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert storage.read_bytes(storage.join(FOLDER, "file")) == b"x"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(SettingError, match="nobody"):
        storage.read_bytes(storage.join(FOLDER, "file"))


def test_reads_go_through_the_proxy_of_the_environment(
    swift: Swift, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = storage.join(FOLDER, "by proxy")
    storage.write_bytes(uri, DATA)
    monkeypatch.setenv("http_proxy", proxy.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", swift.endpoint.replace("127.0.0.1", "localhost"))
    proxy.set()
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # the proxy itself is asked for the requests that it saw
    assert storage.read_range(uri, 1000, 2000) == DATA[1000:3000]
    (request,) = proxy.requests()
    assert (request["method"], request["range"]) == ("GET", "bytes=1000-2999")


ASKING = [storage.check_writable, storage.read_bytes, storage.exists, storage.list_folder, storage.delete_folder]


@pytest.mark.parametrize("ask", ASKING, ids=lambda ask: ask.__name__)
def test_a_bucket_that_does_not_exist_is_a_setting_error(ask) -> None:
    with pytest.raises(SettingError, match="a bucket that exists, got s3://nowhere/x"):
        ask("s3://nowhere/x")


@pytest.mark.parametrize("ask", ASKING, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize(
    "credentials",
    [
        STRANGER,
        {"AWS_SECRET_ACCESS_KEY": "wrong"},
        {"AWS_ACCESS_KEY_ID": "nobody"},
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
    ],
    ids=["no rights", "wrong secret", "unknown", "none"],
)
def test_refused_credentials_are_a_setting_error(
    ask, credentials: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=r"credentials .*s3://faces/store/x"):
        ask(storage.join(FOLDER, "x"))


@pytest.mark.parametrize("ask", ASKING, ids=lambda ask: ask.__name__)
def test_an_endpoint_without_a_known_name_is_a_setting_error(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid:1")
    with pytest.raises(SettingError, match=r"a name that can be resolved, got http://store\.invalid:1"):
        ask(storage.join(FOLDER, "x"))


@pytest.mark.parametrize("ask", ASKING, ids=lambda ask: ask.__name__)
def test_a_store_that_nobody_answers_for_is_a_cluster_error(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("LDLVA_S3_LIMIT_S", "0.3")
    with pytest.raises(ClusterError, match=r"the store failed at s3://faces/store/x.*127\.0\.0\.1:1"):
        ask(storage.join(FOLDER, "x"))


def test_the_doctor_writes_and_reads_a_bucket_and_leaves_it_as_it_was() -> None:
    found = {finding.check: finding.level for finding in store.look_at_store("s3://faces/runs").findings}
    assert found == {"endpoint": "ok", "credentials": "ok", "write and read": "ok"}
    assert storage.list_folder("s3://faces/runs") == []


def test_the_doctor_names_a_bucket_that_is_not_there_and_its_cure() -> None:
    found = store.look_at_store("s3://no-such-bucket/runs").findings[-1]
    assert found.level == "problem"
    assert "must name a bucket that exists" in found.found
    assert "aws s3 mb s3://no-such-bucket)" in found.cure


def test_the_doctor_says_who_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STRANGER.items():
        monkeypatch.setenv(name, value)
    found = store.look_at_store("s3://faces/runs").findings[-1]
    assert found.level == "problem"
    assert "refused" in found.found
    assert "must be allowed to" in found.cure


def test_a_log_of_metrics_is_whole_after_every_checkpoint_and_one_object_in_the_end() -> None:
    folder, had_pieces = f"{FOLDER}/log-of-metrics", 0
    log = MetricsLog(folder, 1)
    for step in range(1, 81):
        log.add({"step": step, "loss": 1 / step})
        log.flush()
        if step % 20 == 0:
            assert [line["step"] for line in read_metrics(folder)] == list(range(1, step + 1))
        had_pieces += step % 5 == 0 and len(storage.list_folder(folder)) > 1
    assert had_pieces
    resumed = MetricsLog(folder, 71)  # the first one was killed
    assert resumed.last_step == 70
    resumed.add({"step": 71, "loss": 0.0})
    resumed.close()
    assert storage.list_folder(folder) == ["metrics.jsonl"]
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, 72))
