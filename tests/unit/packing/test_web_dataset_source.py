"""WebDataset tars as people have them, whole and broken: every sample comes, or is rejected with a reason."""

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ldlva_dist.dataset.images import encode_image
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.sources.generic import WebDataset
from ldlva_dist.packing.sources.readers.samples import Fields
from ldlva_dist.packing.sources.readers.tar_members import Damage, members
from ldlva_dist.packing.sources.readers.web_dataset import WebDatasetSource
from ldlva_dist.packing.sources.rows import all_rows

IMAGE = encode_image(np.zeros((8, 8, 3), dtype=np.uint8))
FIELDS = Fields(label="emotion", valence="v", arousal="a")
Members = list[tuple[str, bytes]]


def _json(**facts: object) -> bytes:
    return json.dumps(facts).encode()


def _sample(key: str, **facts: object) -> Members:
    return [(f"{key}.jpg", IMAGE), (f"{key}.json", _json(**({"emotion": "happy", "v": 0.5, "a": -0.5} | facts)))]


def _tar(path: Path, content: Members, change: Callable[[tarfile.TarInfo], None] | None = None) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if change is not None:
                change(info)
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return str(path)


def _found(*tars: str, fields: Fields = FIELDS, tar_in_key: bool = False) -> list[tuple[str, str | None, str | None]]:
    """key, label and reason of every row."""
    source = WebDatasetSource(tars={"train": tars}, fields=fields, tar_in_key=tar_in_key, skip_damaged=True)
    return [row for rows in all_rows(source) for row in zip(rows.keys, rows.labels, rows.reasons or (), strict=True)]


def _reasons(path: str, fields: Fields = FIELDS) -> dict[str, str | None]:
    return {key: reason for key, _, reason in _found(path, fields=fields)}


def test_images_labels_and_valence_arousal_come_from_the_named_fields(tmp_path: Path) -> None:
    content = _sample("a/one", emotion="sad", v=0.25, a=None) + _sample("a/two", emotion=3, v="x")
    (rows,) = all_rows(WebDatasetSource(tars={"test": (_tar(tmp_path / "t.tar", content),)}, fields=FIELDS))
    assert rows.part == "test"
    assert list(rows.keys) == ["a_one", "a_two"]
    assert list(rows.images) == [IMAGE, IMAGE]
    assert list(rows.labels) == ["sad", "3"]
    np.testing.assert_array_equal(rows.va, np.array([[0.25, np.nan], [np.inf, -0.5]], dtype=np.float32))
    assert list(rows.reasons or ()) == [None, None]


def test_the_class_member_is_the_label_where_no_field_is_named(tmp_path: Path) -> None:
    content = [("1.png", IMAGE), ("1.cls", b"4\n"), ("2.png", IMAGE), ("2.cls", b"")]
    assert _found(_tar(tmp_path / "t.tar", content), fields=Fields()) == [("1", "4", None), ("2", None, None)]


def test_long_names_of_any_tar_format_are_read(tmp_path: Path) -> None:
    key = "faces/" + "x" * 60 + "/" + "y" * 60
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        with tarfile.open(tmp_path / f"{kind}.tar", "w", format=kind) as tar:
            for name, data in _sample(key):
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1.5  # a fraction asks for an extended header
                tar.addfile(info, io.BytesIO(data))
        source = WebDatasetSource(tars={"train": (str(tmp_path / f"{kind}.tar"),)}, fields=FIELDS)
        (rows,) = all_rows(source)
        assert list(rows.reasons or ()) == [None]
        assert rows.keys[0].startswith("faces_xxx")


def test_what_webdataset_itself_writes_is_read(tmp_path: Path) -> None:
    from webdataset.writer import TarWriter

    with TarWriter(str(tmp_path / "t.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"{i:06d}", "jpg": IMAGE, "json": {"emotion": i}})
    assert _found(str(tmp_path / "t.tar"), fields=Fields(label="emotion")) == [
        (f"{i:06d}", str(i), None) for i in range(3)
    ]


BAD = [
    ([("b.json", _json(emotion="sad"))], "it has no image member"),
    ([("b.jpg", IMAGE)], "it has no .json member"),
    ([("b.jpg", IMAGE), ("b.json", b"{'emotion': 1}")], "its .json member is no JSON"),
    ([("b.jpg", IMAGE), ("b.json", b"[" * 100_000)], "its .json member is no JSON"),
    ([("b.jpg", IMAGE), ("b.json", b"[1]")], "its .json member is no JSON object"),
    ([("b.jpg", IMAGE), ("b.json", b"\xff\xfe")], "its .json member is no text"),
    ([("b.jpg", IMAGE), ("b.json", b" " * (1 << 20) + b"{}")], "its .json member has more than 1048576 bytes"),
    ([("b.jpg", IMAGE), ("b.json", _json(emotion=[1, 2]))], "its label is neither a name nor an index"),
    ([("b.jpg", IMAGE), ("b.json", b'{"emotion": "\\ud800"}')], "its label is neither a name nor an index"),
    ([*_sample("b"), ("b.json", _json())], "it has two .json members"),
    *(
        (
            [*_sample("b"), (f"b.{name}", b"cos\nsystem\n(S'exit 1'\ntR.")],
            f"it has a .{name} member, which is never opened",
        )
        for name in ("pkl", "pt", "pth", "npy", "pyd", "face.npz")
    ),
]


@pytest.mark.parametrize(("content", "reason"), BAD, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(BAD)])
def test_a_bad_sample_is_rejected_and_its_neighbors_are_not(tmp_path: Path, content: Members, reason: str) -> None:
    path = _tar(tmp_path / "t.tar", [*_sample("a"), *content, *_sample("c")])
    assert _reasons(path) == {"a": None, "b": reason, "c": None}


@pytest.mark.parametrize("name", ["../b.jpg", "/etc/b.jpg", "x/../../b.jpg", "b\n.jpg", "b"])
def test_a_name_that_leads_out_of_the_tar_is_rejected_unopened(tmp_path: Path, name: str) -> None:
    path = _tar(tmp_path / "t.tar", [*_sample("a"), (name, IMAGE), *_sample("c")])
    reasons = _reasons(path)
    (bad,) = set(reasons) - {"a", "c"}
    assert bad.startswith("t_tar_")
    assert repr(name) in str(reasons[bad])
    assert (reasons["a"], reasons["c"]) == (None, None)


def test_links_are_never_followed(tmp_path: Path) -> None:
    def link(info: tarfile.TarInfo) -> None:
        if info.name == "b.jpg":
            info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0

    path = _tar(tmp_path / "t.tar", [*_sample("a"), *_sample("b")], link)
    assert _reasons(path) == {"a": None, "b": "its .jpg member is no plain file"}


def test_unsafe_members_are_passed_over_when_asked(tmp_path: Path) -> None:
    path = _tar(tmp_path / "t.tar", [*_sample("a"), ("a.npy", b"x")])
    assert _reasons(path, Fields(label="emotion", ignore=("npy",))) == {"a": None}


def test_folders_hidden_files_and_other_texts_are_no_samples(tmp_path: Path) -> None:
    def folder(info: tarfile.TarInfo) -> None:
        if info.name == "d":
            info.type = tarfile.DIRTYPE

    content = [
        ("d", b""),
        ("._a.jpg", b"x"),
        *_sample("a"),
        ("a.txt", b"hello"),
        (".x/1.jpg", b""),
        ("@eaDir/2.jpg", b""),
    ]
    found = _found(_tar(tmp_path / "t.tar", content, folder))
    assert [(key, reason) for key, _, reason in found][:1] == [("a", None)]
    assert [reason for _, _, reason in found][1:] == ["left out: hidden files"] * 3


def test_a_corrupt_header_costs_its_own_sample_only(tmp_path: Path) -> None:
    path = Path(_tar(tmp_path / "t.tar", [row for key in "abcd" for row in _sample(key)]))
    data = bytearray(path.read_bytes())
    at = data.index(b"b.json")
    data[at + 150] ^= 0xFF  # in the header's checksum
    path.write_bytes(data)
    reasons = _reasons(str(path))
    assert reasons == {
        "a": None,
        "b": "it has no .json member",
        f"t_tar_{at}": f"left out: t.tar: the tar is damaged at byte {at}: 1024 bytes are passed over",
        "c": None,
        "d": None,
    }


def test_zeros_in_mid_tar_do_not_end_it(tmp_path: Path) -> None:
    path = Path(_tar(tmp_path / "t.tar", [row for key in "abc" for row in _sample(key)]))
    data = bytearray(path.read_bytes())
    at = data.index(b"b.jpg")
    data[at : at + 512] = bytes(512)
    path.write_bytes(data)
    reasons = _reasons(str(path))
    assert (reasons["a"], reasons["c"]) == (None, None)
    assert f"damaged at byte {at}" in str(reasons[f"t_tar_{at}"])
    assert reasons["b"] == "it has no image member"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_tar_that_is_cut_off_is_reported_with_the_byte(tmp_path: Path, share: float) -> None:
    path = Path(_tar(tmp_path / "t.tar", [row for i in range(9) for row in _sample(f"{i}")]))
    data = path.read_bytes()
    end = int((data.index(b"8.json") + 512) * share)
    path.write_bytes(data[:end])
    found = _found(str(path))
    damages = [reason for _, _, reason in found if reason is not None and "the tar" in reason]
    (damage,) = damages
    assert f"the tar is cut off at byte {end}" in damage
    good = [key for key, _, reason in found if reason is None]
    assert good == [f"{i}" for i in range(len(good))]


def test_a_tar_cut_at_a_members_end_lacks_its_end_mark(tmp_path: Path) -> None:
    path = Path(_tar(tmp_path / "t.tar", _sample("a") + _sample("b")))
    data = path.read_bytes()
    end = data.index(b"b.jpg")
    path.write_bytes(data[:end])
    damage = f"left out: t.tar: the tar is cut off at byte {end}: it has no end mark"
    assert _reasons(str(path)) == {"a": None, f"t_tar_{end}": damage}


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_is_left_out_where_that_is_asked_for(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.tar").write_bytes(data)
    ((_, _, reason),) = _found(str(tmp_path / "t.tar"))
    assert str(reason).startswith("left out: t.tar: ")


def test_every_single_broken_byte_of_a_header_is_noticed_or_harmless() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in _sample("a") + _sample("b"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    whole = buffer.getvalue()
    at = whole.index(b"b.jpg")
    for byte in range(512):
        broken = bytearray(whole)
        broken[at + byte] ^= 0x01
        entries = list(members(memoryview(bytes(broken))))
        names = [entry.name for entry in entries if not isinstance(entry, Damage)]
        damaged = any(isinstance(entry, Damage) for entry in entries)
        assert damaged or names == ["a.jpg", "a.json", "b.jpg", "b.json"]
        assert names[-1] == "b.json"


@pytest.mark.parametrize("seed", range(10))
def test_no_damage_costs_a_sample_without_a_word(tmp_path: Path, seed: int) -> None:
    keys = {f"k{i}" for i in range(8)}
    whole = Path(_tar(tmp_path / "whole.tar", [row for key in sorted(keys) for row in _sample(key)])).read_bytes()
    draw = random.Random(seed)
    for _ in range(20):
        at, size = draw.randrange(len(whole)), draw.choice([1, 512, 700, 1024])
        hurt = draw.choice([b"", bytes(size), draw.randbytes(size), whole[at : at + size] * 2])
        (tmp_path / "t.tar").write_bytes(whole[:at] + hurt + (whole[at + size :] if draw.random() < 0.8 else b""))
        found = _found(str(tmp_path / "t.tar"))
        good = {key for key, _, reason in found if reason is None}
        assert good >= keys or len(good) < len(found)


def test_keys_may_begin_again_in_every_tar(tmp_path: Path) -> None:
    tars = [_tar(tmp_path / f"part-{i}.tar", _sample("0")) for i in range(2)]
    source = WebDatasetSource(tars={"train": tuple(tars)}, fields=FIELDS)
    assert [name for rows in all_rows(source) for name in rows.names or ()] == ["part-0.tar/0", "part-1.tar/0"]
    assert [key for key, _, _ in _found(*tars, tar_in_key=True)] == ["part-0_0", "part-1_0"]


def test_a_folder_of_tars_stands_for_its_tars(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "notes.txt"):
        _tar(tmp_path / name, _sample(name[0]))
    _tar(tmp_path / "._a.tar", [])
    command = WebDataset(output="x", train=(str(tmp_path),))
    source = command.source()
    assert command.notes() == [f"passed over: 1 files (.txt 1) in {tmp_path}"]
    assert [Path(piece.place).name for piece in source.partitions()] == ["a.tar", "b.tar"]
    for place in ("none.tar", "none", "notes.txt"):
        with pytest.raises(SettingError, match="must name tars or folders of tars"):
            WebDataset(output="x", train=(str(tmp_path / place),)).source()
    with pytest.raises(SettingError, match="--valence-field and --arousal-field must both be given"):
        WebDataset(output="x", train=(str(tmp_path),), valence_field="v").source()
