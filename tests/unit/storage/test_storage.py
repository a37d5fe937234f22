"""Storage: one door for local paths; the store's side is tested in tests/s3."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    uri = storage.join(str(tmp_path), "folder", "file.bin")
    storage.write_bytes(uri, b"0123456789")
    assert storage.read_bytes(uri) == b"0123456789"
    assert storage.read_range(uri, 3, 4) == b"3456"
    assert storage.exists(uri)
    assert storage.list_folder(storage.join(str(tmp_path), "folder")) == ["file.bin"]


def test_a_range_beyond_the_end_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    uri = storage.join(str(tmp_path), "short.bin")
    storage.write_bytes(uri, b"0123")
    with pytest.raises(DataError, match=r"short\.bin ends early: wanted 4 bytes at 2, got 2"):
        storage.read_range(uri, 2, 4)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*missing\.bin"):
        storage.read_bytes(storage.join(str(tmp_path), "missing.bin"))


def test_writing_again_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    uri = storage.join(str(tmp_path), "file.bin")
    storage.write_bytes(uri, b"old")
    storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"new"
    assert storage.list_folder(str(tmp_path)) == ["file.bin"]


def test_what_a_process_that_is_killed_leaves_half_written_can_be_deleted(tmp_path: Path) -> None:
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    storage.write_bytes(f"{folder}/.other", b"stays")
    os.mkfifo(pipe)
    program = "import sys; from ldlva_dist import storage; storage.upload(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(pipe), f"{folder}/file"]
    with subprocess.Popen(command) as writer, pipe.open("wb"):  # the end of the pipe would end the copy
        end = time.monotonic() + 60
        while len(storage.list_folder(str(folder))) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        writer.kill()
        writer.wait()
    assert len(storage.list_folder(str(folder))) == 2
    storage.delete_unfinished(str(folder))
    assert storage.list_folder(str(folder)) == [".other"]


def test_a_copied_file_replaces_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    storage.write_bytes(str(tmp_path / "folder" / "file"), b"old")
    storage.upload(str(tmp_path / "source"), str(tmp_path / "folder" / "file"))
    assert storage.read_bytes(str(tmp_path / "folder" / "file")) == b"new"
    assert storage.list_folder(str(tmp_path / "folder")) == ["file"]
    with pytest.raises(DataError, match=r"no file .*missing"):
        storage.upload(str(tmp_path / "missing"), str(tmp_path / "folder" / "file"))


def test_deleting_what_is_not_there_does_nothing(tmp_path: Path) -> None:
    storage.delete_folder(storage.join(str(tmp_path), "none"))
    storage.delete_file(storage.join(str(tmp_path), "none"))
    assert storage.list_folder(storage.join(str(tmp_path), "none")) == []


def test_a_folder_is_deleted_with_everything_in_it(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "folder" / "deep" / "file"), b"x")
    storage.delete_folder(str(tmp_path / "folder"))
    assert not storage.exists(str(tmp_path / "folder"))


def test_a_path_that_cannot_be_written_is_a_setting_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingError, match="storage path must be writable"):
        storage.check_writable(str(tmp_path / "file" / "folder"))
    storage.check_writable(str(tmp_path / "new" / "folder"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("uri", ["gs://bucket/key", "s3://", ""])
def test_an_address_of_another_kind_is_a_setting_error(uri: str) -> None:
    with pytest.raises(SettingError, match="storage address"):
        storage.resolve(uri)


def _odd_paths(folder: Path) -> dict[str, str]:
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "circle").symlink_to("circle")
    (folder / "nowhere").symlink_to("missing")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")  # in the current folder: a socket's path has a length limit
    odd = ["pipe", "folder", "circle", "nowhere", "socket", "x" * 300, "a\0b", "folder/file", "http://host/x.jpg"]
    return {**{name: f"{folder}/{name}" for name in odd}, "device": "/dev/zero", "terminal": "/dev/tty"}


@pytest.mark.parametrize("read", [storage.read_bytes, lambda uri: storage.read_range(uri, 0, 4), storage.open_input])
def test_what_is_no_plain_file_is_refused_at_once(
    read: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, path in _odd_paths(tmp_path).items():
        with pytest.raises(DataError, match=r"no (plain )?file") as caught:
            read(path)
        assert "\n" not in str(caught.value), name


def test_no_more_is_read_than_is_asked_for(tmp_path: Path) -> None:
    """Files of /proc say that they have no bytes."""
    (tmp_path / "file").write_bytes(b"0123456789")
    assert storage.read_bytes(f"{tmp_path}/file", 4) == b"0123"
    assert storage.read_bytes(f"{tmp_path}/file", 10) == storage.read_bytes(f"{tmp_path}/file", 11) == b"0123456789"
    assert os.stat("/proc/self/status").st_size == 0
    assert storage.read_bytes("/proc/self/status", 5) == b"Name:"
    assert len(storage.read_bytes("/proc/self/status")) > 5


@pytest.mark.parametrize(("offset", "size"), [(-512, 100), (0, -1), (2, 1 << 40), (1 << 40, 4), (1 << 62, 1 << 62)])
def test_a_range_that_no_file_has_is_a_data_error_and_takes_no_memory(offset: int, size: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with pytest.raises(DataError, match=r"cannot have|ends early"):
        storage.read_range(f"{tmp_path}/file", offset, size)
