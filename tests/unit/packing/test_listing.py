"""Which files of a folder are rows, and what is said of the others."""

import os
from pathlib import Path

import pytest

from ldlva_dist.errors import DataError
from ldlva_dist.packing.sources.listing import Listing, list_images
from ldlva_dist.packing.sources.readers.tables import names_in


def _make(root: Path, *names: str) -> str:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return str(root)


def _listed(root: Path) -> Listing:
    list_images.cache_clear()
    return list_images(str(root))


def test_every_kind_of_image_is_listed_and_the_rest_is_counted(tmp_path: Path) -> None:
    images = ["a/1.JPG", "a/2.jfif", "a/3.jpe", "b/4.avif", "b/5.jp2", "b/6.ppm", "b/7.pgm", "b/c/8.webp", "9.tif"]
    _make(tmp_path, *images, *(f"a/{i}.txt" for i in range(10)), "b/1.heic", "b/2.HEIC", "README")
    listing = _listed(tmp_path)
    assert listing.paths.to_pylist() == sorted(images)
    assert listing.passed_over() == ["passed over: 13 files (.txt 10, .heic 2, no extension 1)"]
    assert listing.folders == {"a", "b"}


def test_hidden_files_and_folders_of_systems_are_passed_over(tmp_path: Path) -> None:
    hidden = ["a/.ipynb_checkpoints/1-checkpoint.jpg", "b/.ipynb_checkpoints/1-checkpoint.jpg", "a/@eaDir/1.jpg"]
    hidden += ["__MACOSX/a/1.jpg", "a/._1.jpg", "b/._1.jpg", ".git/x/1.jpg", "#recycle/1.png"]
    _make(tmp_path, "a/1.jpg", "b/1.jpg", "a/Thumbs.db", "a/@home.jpg", *hidden)
    listing = _listed(tmp_path)
    assert listing.paths.to_pylist() == ["a/1.jpg", "a/@home.jpg", "b/1.jpg"]
    said = "8 hidden (._* 2, .ipynb_checkpoints 2, #recycle 1, .git 1, @eaDir 1, __MACOSX 1)"
    assert listing.passed_over() == [f"passed over: 1 files (.db 1), {said}"]


def test_a_hidden_folder_may_hold_the_folder_itself(tmp_path: Path) -> None:
    assert _listed(Path(_make(tmp_path / ".cache" / "faces", "1.jpg"))).paths.to_pylist() == ["1.jpg"]


def test_each_real_file_comes_once_whatever_the_links(tmp_path: Path) -> None:
    faces, other = tmp_path / "faces", tmp_path / "other"
    _make(faces, "a/1.jpg", "b/2.jpg")
    _make(other, "3.jpg", "deep/4.jpg", "5.jpg")
    _make(tmp_path, "beside/6.jpg")
    links = {"a/up": "..", "a/here": ".", "out": "../..", "a/copy.jpg": "1.jpg", "c": "../other"}
    links |= {"d": "../other/deep", "a/five.jpg": "../../other/5.jpg", "loop.jpg": "loop.jpg", "gone.jpg": "nowhere"}
    for name, target in links.items():
        os.symlink(target, faces / name)
    os.symlink("..", other / "back")
    listing = _listed(faces)
    real = [os.path.realpath(faces / path) for path in listing.paths.to_pylist()]
    wanted = [faces / "a/1.jpg", faces / "b/2.jpg", other / "3.jpg", other / "5.jpg", other / "deep/4.jpg"]
    assert sorted(real) == sorted(map(str, wanted))
    assert "a/1.jpg" in listing.paths.to_pylist()
    assert listing.folders == {"a", "b", "c"}
    assert listing.links["broken links"] == 2


def test_a_link_to_the_folder_itself_is_followed(tmp_path: Path) -> None:
    _make(tmp_path / "real", "1.jpg")
    os.symlink("real", tmp_path / "link")
    assert _listed(tmp_path / "link").paths.to_pylist() == ["1.jpg"]


def test_links_of_image_names_to_files_of_others_are_images(tmp_path: Path) -> None:
    """As caches of the hub lay them out."""
    _make(tmp_path, "blobs/0a1b", "blobs/2c3d", "snapshot/x/none.txt")
    os.symlink("../../blobs/0a1b", tmp_path / "snapshot/x/1.jpg")
    os.symlink("../../blobs/2c3d", tmp_path / "snapshot/x/2.jpg")
    assert _listed(tmp_path / "snapshot").paths.to_pylist() == ["x/1.jpg", "x/2.jpg"]


def test_pipes_are_no_images(tmp_path: Path) -> None:
    _make(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "2.jpg")
    listing = _listed(tmp_path)
    assert listing.paths.to_pylist() == ["1.jpg"]
    assert listing.passed_over() == ["passed over: 1 files (pipes and devices 1)"]


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))).write_bytes(b"x")
    with pytest.raises(DataError, match=r"must be UTF-8 text, got b'caf\\xe9\.jpg'"):
        _listed(tmp_path)


def test_what_is_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        list_images(str(tmp_path / "none"))
    with pytest.raises(DataError, match="there is no folder"):
        list_images(_make(tmp_path, "x.jpg") + "/x.jpg")


def test_rows_of_several_files_are_called_by_the_files_too() -> None:
    assert names_in("x/0.tar", ["x/0.tar"], ["k"]) == ["k"]
    assert names_in("x/a/0.tar", ["x/a/0.tar", "x/b/0.tar"], ["k"]) == ["a/0.tar/k"]
    assert names_in("s3://x/a/0.tar", ["s3://x/a/0.tar", "s3://x/1.tar"], ["k", 7]) == ["a/0.tar/k", "a/0.tar/7"]
