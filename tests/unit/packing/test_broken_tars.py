"""Tars that are broken or strange: an error that names the tar, or the right rows; never fewer rows in silence."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ldlva_dist.errors import DataError
from ldlva_dist.packing.sources.readers.samples import Fields, Sample, read_samples
from ldlva_dist.packing.sources.readers.web_dataset import WebDatasetSource
from ldlva_dist.packing.sources.rows import LEFT_OUT, all_rows

IMAGE = b"\xff\xd8" + bytes(range(1, 200)) * 3
FIELDS = Fields(label="emotion")
Members = list[tuple[str, bytes]]


def _sample(key: str) -> Members:
    return [(f"{key}.jpg", IMAGE + key.encode()), (f"{key}.json", json.dumps({"emotion": key}).encode())]


def _tar(content: Members, kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


KEYS = [f"k{number}" for number in range(4)]
WHOLE = _tar([member for key in KEYS for member in _sample(key)])


def _samples(data: bytes, fields: Fields = FIELDS) -> list[Sample]:
    return list(read_samples(memoryview(data), "t.tar", fields))


def _source(tmp_path: Path, data: bytes, fields: Fields = FIELDS) -> WebDatasetSource:
    (tmp_path / "t.tar").write_bytes(data)
    return WebDatasetSource(tars={"train": (str(tmp_path / "t.tar"),)}, fields=fields)


def _hollow(data: bytes, begin: int, end: int) -> bytes:
    return data[:begin] + bytes(end - begin) + data[end:]


def _last_hollow(data: bytes) -> bytes:
    """The headers of the last sample are zeros; its contents are there."""
    for name in (b"k3.jpg", b"k3.json"):
        data = _hollow(data, data.index(name), data.index(name) + 512)
    return data


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "the tar is empty: it has 0 bytes"),
    "an archive of nothing": (lambda data: bytes(10240), "the tar is empty: it holds no samples"),
    "no tar": (lambda data: b"<html>not found</html>" * 100, "it is no tar"),
    "gzip": (lambda data: gzip.compress(data + bytes(IMAGE) * 9), "the tar is compressed"),
    "cut off": (lambda data: data[:5000], "the tar is cut off at byte 5000"),
    "without an end": (lambda data: data.rstrip(b"\0"), "the tar is cut off at byte"),
    "a hole": (lambda data: _hollow(data, 1536, 4096), "the tar is damaged at byte"),
    "a hole to its end": (lambda data: _hollow(data, 4608, len(data)) + bytes(10240), "bytes of zeros"),
    "the last sample hollow": (_last_hollow, "the tar is damaged at byte"),
    "two tars as one": (lambda data: data + data, "the tar is damaged at byte"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_tar_stops_the_packing_by_its_name(tmp_path: Path, kind: str) -> None:
    change, words = BROKEN[kind]
    source = _source(tmp_path, change(WHOLE))
    with pytest.raises(DataError, match=rf"t\.tar: .*{words}.* \(--damaged-tars skip"):
        list(all_rows(source))
    reasons = [reason for rows in all_rows(replace(source, skip_damaged=True)) for reason in rows.reasons or ()]
    assert any(str(reason).startswith(f"{LEFT_OUT}t.tar") for reason in reasons)


DOTTED: list[Members] = [
    [(f"clip.{i:05d}.{kind}", data) for i in range(3) for kind, data in (("jpg", IMAGE), ("cls", b"1"))],
    [("face.v2.jpg", IMAGE), ("face.v2.cls", b"1")],
    [("0.jpg", IMAGE), ("0.cls", b"1"), ("0.flip.jpg", IMAGE), ("0.flip.cls", b"1")],
    [("IMG.0.png", IMAGE), ("IMG.1.png", IMAGE)],
    [("0.jpg", IMAGE), ("0.cls", b"1"), ("0..jpg", IMAGE), ("0..cls", b"1")],
]


@pytest.mark.parametrize("content", DOTTED, ids=range(len(DOTTED)))
def test_a_dot_that_hides_samples_is_named(tmp_path: Path, content: Members) -> None:
    source = _source(tmp_path, _tar([("a.jpg", IMAGE), ("a.cls", b"1"), *content]), Fields())
    with pytest.raises(DataError, match=r"t\.tar: the name '[^']+' has a dot before its extension"):
        list(all_rows(source))
    images = sum(name.endswith(("jpg", "png")) for name, _ in content)
    (rows,) = all_rows(replace(source, skip_damaged=True))
    assert len(rows.keys) == 1 + images
    assert list(rows.reasons or ()).count("left out: a dot in the name") == images - (content[0][0] == "0.jpg")


def test_a_dot_that_hides_nothing_is_none() -> None:
    content = [("v1.2/a.jpg", IMAGE), ("v1.2/a.mask.png", IMAGE), ("v1.2/a.cls", b"1")]
    (sample,) = _samples(_tar(content), Fields())
    assert (sample.key, sample.image, sample.label) == ("v1.2/a", IMAGE, "1")
    content = [("a.in.jpg", IMAGE), ("a.out.jpg", b"x"), ("a.cls", b"1")]
    (sample,) = _samples(_tar(content), Fields(image=("in.jpg",)))
    assert (sample.key, sample.image, sample.label) == ("a", IMAGE, "1")


@pytest.mark.parametrize(("one", "other"), [("a.jpg", "a.png"), ("a.jpg", "a.JPG"), ("a.jpg", "a.jpg")])
def test_two_images_of_one_key_are_named(tmp_path: Path, one: str, other: str) -> None:
    data = _tar([(one, IMAGE), (other, IMAGE), ("a.cls", b"1")])
    with pytest.raises(DataError, match=rf"t\.tar: '{one}' and '{other}' are two images of one key"):
        list(all_rows(_source(tmp_path, data, Fields())))
    if other == "a.png":
        assert [sample.key for sample in _samples(data, Fields(image=("png",)))] == ["a"]


def test_entries_that_are_no_samples_hide_none() -> None:
    """Links and folders with a size but without content, labels of volumes, lists of folders."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number, kind in enumerate((tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, b"V", b"D")):
            info = tarfile.TarInfo(f"x{number}.jpg")
            info.type, info.size = kind, 0 if kind in (b"V", b"D") else 1536
            tar.addfile(info)
            for name, data in _sample(f"k{number}"):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    found = {sample.key: sample.reason for sample in _samples(buffer.getvalue())}
    links = dict.fromkeys(("x0", "x1", "x3"), "its .jpg member is no plain file")
    assert found == {f"k{number}": None for number in range(6)} | links


def _sparse(name: str, kind: str) -> bytes:
    """A file with a hole, as GNU tar writes it in its old way and in the one of extended headers; data are 8 bytes."""
    info = tarfile.TarInfo(name)
    if kind == "gnu":
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 8
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[386:482] = b"%011o\0%011o\0" % (0, 8) + bytes(72)
        header[482] = 1  # more of the map follows in a block of its own
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
        return bytes(header) + bytes(512) + b"contents".ljust(512, b"\0")
    content = b"1\n0\n8\n".ljust(512, b"\0") + b"contents"
    info.size = len(content)
    facts = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name}
    info.name, info.pax_headers = f"GNUSparseFile.0/{name}", facts
    return info.tobuf(tarfile.PAX_FORMAT) + content.ljust(1024, b"\0")


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_a_sparse_file_is_a_rejected_row_and_hides_none(kind: str) -> None:
    first, second = (_tar(_sample(key)).rstrip(b"\0") for key in "ab")
    first, second = (part.ljust(-(-len(part) // 512) * 512, b"\0") for part in (first, second))
    data = first + _sparse("s.jpg", kind) + second + bytes(1024)
    found = {sample.key: sample.reason for sample in _samples(data)}
    assert found == {"a": None, "s": "its .jpg member is no plain file", "b": None}


@st.composite
def hurt_tars(draw: st.DrawFn) -> bytes:
    """A tar after a few cuts, holes, exchanges and insertions."""
    data = bytearray(WHOLE)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.one_of(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE) // 512).map(lambda n: 512 * n)))
        size = draw(st.sampled_from([1, 8, 100, 512, 700, 1024, 4096]))
        with_what = draw(st.sampled_from(["cut", "hole", "noise", "twice", "end", "flip"]))
        piece = bytes(data[place : place + size])
        other = {
            "cut": b"",
            "hole": bytes(len(piece)),
            "noise": draw(st.binary(min_size=8, max_size=8)) * (size // 8),
            "twice": piece * 2,
            "flip": bytes(byte ^ 1 for byte in piece),
        }
        if with_what == "end":
            del data[place:]
        else:
            data[place : place + size] = other[with_what]
    return bytes(data)


@settings(max_examples=250, derandomize=True, deadline=None, database=None)
@example(WHOLE)
@given(hurt_tars())
def test_whatever_happens_to_the_bytes_no_sample_is_lost_in_silence(data: bytes) -> None:
    found = _samples(data)
    assert all(isinstance(sample, Sample) for sample in found)
    if not any(sample.flaw for sample in found):
        assert len(found) >= len(KEYS)
        good = {sample.key: sample.label for sample in found if sample.reason is None}
        assert len(good) == len(KEYS) or len(found) > len(good)


@st.composite
def strange_headers(draw: st.DrawFn) -> bytes:
    """A header of any type, name, size and extended facts, and some content of it."""
    info = tarfile.TarInfo(draw(st.text(max_size=140)))
    info.type = draw(st.sampled_from([bytes([kind]) for kind in b"0\x001235678SLKxgVDM"]))
    info.size = draw(st.sampled_from([0, 1, 511, 512, 600, 8**11 - 1, 2**40]))
    facts: dict[str, Any] = draw(
        st.dictionaries(
            st.sampled_from(["path", "size", "GNU.sparse.major", "mtime", "comment"]), st.text(max_size=20), max_size=2
        )
    )
    info.pax_headers = facts
    kind = tarfile.PAX_FORMAT if draw(st.booleans()) else tarfile.GNU_FORMAT
    header = info.tobuf(kind, "utf-8", "surrogateescape")
    return header + draw(st.binary(max_size=40)).ljust(512 * -(-min(info.size, 1024) // 512), b"\0")


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(st.lists(strange_headers(), max_size=2), st.integers(0, len(KEYS)))
def test_strange_headers_end_in_no_other_error_and_hide_nothing(headers: list[bytes], place: int) -> None:
    """Between whole samples: those come, or the tar has a flaw."""
    parts = [_tar(_sample(key)).rstrip(b"\0") for key in KEYS]
    parts = [part.ljust(-(-len(part) // 512) * 512, b"\0") for part in parts]
    found = _samples(b"".join([*parts[:place], *headers, *parts[place:]]) + bytes(1024))
    good = {sample.key for sample in found if sample.reason is None}
    assert good >= set(KEYS) or any(sample.reason for sample in found)
