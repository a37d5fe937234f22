"""make_shards verify: every kind of damage is found, named, and nothing of it is opened."""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import write_info, write_manifest
from ldlva_dist.dataset.manifest_blocks import write_blocks
from ldlva_dist.dataset.manifest_checks import check_manifest
from ldlva_dist.errors import DataError
from ldlva_dist.index.verify_graph import check_part, graphs_of
from ldlva_dist.packing.near_copies import find_copy_groups
from ldlva_dist.packing.verify import verify
from ldlva_dist.packing.verify_shards import check_shard

pytestmark = pytest.mark.usefixtures("cluster")
SHARD = 2
Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def copy(faces: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(faces, tmp_path / "set"))


def _shard(folder: Path) -> Path:
    return folder / Dataset.open(str(folder)).info.shards[SHARD].name


def _findings(folder: Path) -> str:
    return "\n".join(check_shard(Dataset.open(str(folder)), SHARD))


def _rewrite(folder: Path, change: Callable[[Members], None]) -> None:
    """Write the shard anew with other members; dataset.json knows its new size."""
    path = _shard(folder)
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # pyright: ignore[reportOptionalMemberAccess]
    change(members)
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    info = Dataset.open(str(folder)).info
    shards = list(info.shards)
    shards[SHARD] = replace(shards[SHARD], bytes=path.stat().st_size)
    write_info(str(folder), replace(info, shards=tuple(shards)))


def test_a_data_set_in_which_nothing_is_wrong_is_said_to_be_so(faces: str) -> None:
    steps: list[tuple[str, int, int]] = []
    assert verify(Dataset.open(faces), lambda *step: steps.append(step)) == 1
    assert steps[-1] == ("verifying", 360, 360)


def test_copies_are_found_by_tasks_as_in_one_process(copy: Path) -> None:
    """Faces are drawn apart; one image is put in the place of another one, under its own size and checksum."""
    table = Dataset.open(str(copy)).columns(Dataset.open(str(copy)).column_names())
    for name in ("shard", "offset", "size", "checksum"):
        values = table[name].to_pylist()
        values[1] = values[0]
        table = table.set_column(table.column_names.index(name), name, [pa.array(values, table[name].type)])
    write_manifest(str(copy), table)
    assert [(group.ids, group.is_exact) for group in find_copy_groups(Dataset.open(str(copy)))] == [([0, 1], True)]


def test_damage_in_several_places_is_told_together(copy: Path) -> None:
    _shard(copy).unlink()
    (copy / "graph-K16" / "ids-00000.npy").unlink()
    with pytest.raises(DataError) as error:
        verify(Dataset.open(str(copy)))
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "is damaged" in lines[0]
    assert _shard(copy).name in lines[1]
    assert "graph-K16: part 0 cannot be read" in lines[2]


def test_a_truncated_tar_is_found_wherever_it_ends(copy: Path) -> None:
    whole = _shard(copy).read_bytes()
    for end in (len(whole) - 10_240, 3 * 512 + 100, 700, 512, 100, 0):
        _shard(copy).write_bytes(whole[:end])
        assert f"has {end} bytes, dataset.json says {len(whole)}" in _findings(copy)
        assert "cut off" in _findings(copy)


def test_a_corrupt_header_in_mid_tar_does_not_end_it_quietly(copy: Path) -> None:
    with tarfile.open(_shard(copy)) as tar:
        third = tar.getmembers()[2]
    data = bytearray(_shard(copy).read_bytes())
    data[third.offset + 150] ^= 0xFF
    _shard(copy).write_bytes(data)
    assert f"has a corrupt header at byte {third.offset}" in _findings(copy)
    assert "is missing" in _findings(copy)


def test_a_flipped_bit_in_an_image_or_its_json_is_found(copy: Path) -> None:
    with tarfile.open(_shard(copy)) as tar:
        image, text = tar.getmembers()[:2]
    data = bytearray(_shard(copy).read_bytes())
    data[image.offset_data + 99] ^= 1
    data[text.offset_data] ^= 1
    _shard(copy).write_bytes(data)
    key = image.name.removesuffix(".jpg")
    assert f"the image of {key!r} does not have the checksum of the manifest" in _findings(copy)
    assert f"the JSON of {key!r} is no JSON" in _findings(copy)


def _drop_image(members: Members) -> None:
    del members[2]


def _drop_text(members: Members) -> None:
    del members[1]


def _twice(members: Members) -> None:
    members.append(members[0])


def _named(name: str) -> Callable[[Members], None]:
    return lambda members: members.append((tarfile.TarInfo(name), b"cos\nsystem\n(S'false'\ntR."))


def _link(members: Members) -> None:
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    members.append((link, b""))


def _other_label(members: Members) -> None:
    facts = json.loads(members[1][1])
    members[1] = members[1][0], json.dumps({**facts, "label": facts["label"] + 1}).encode()


def _no_object(members: Members) -> None:
    members[1] = members[1][0], b"[1]"


CHANGES = [
    (_drop_image, "the image of .* is missing"),
    (_drop_text, "the JSON of .* is missing"),
    (_twice, "stands twice"),
    (_named("stranger.jpg"), "'stranger' is not in the manifest"),
    (_named("../x.jpg"), r"'\.\./x\.jpg' has a path or no key; it was not opened"),
    (_named("/tmp/x.jpg"), "has a path or no key; it was not opened"),
    (_named("a.pkl"), "'a.pkl' is neither an image nor JSON; it was not opened"),
    (_named("a.pt"), "it was not opened"),
    (_named("a.npy"), "it was not opened"),
    (_link, "'link.jpg' is no plain file"),
    (_other_label, "the JSON of .* says label"),
    (_no_object, "is no object"),
]


@pytest.mark.parametrize(("change", "finding"), CHANGES, ids=[finding[:30] for _, finding in CHANGES])
def test_members_that_do_not_belong_or_do_not_agree_are_found(
    copy: Path, change: Callable[[Members], None], finding: str
) -> None:
    _rewrite(copy, change)
    assert re.search(finding, _findings(copy))


def _change_manifest(folder: Path, name: str, value: Callable[[np.ndarray], np.ndarray]) -> None:
    blocks = list(Dataset.open(str(folder)).blocks())
    changed = [
        block.set_column(block.column_names.index(name), name, pa.array(value(block[name].to_numpy().copy())))
        for block in blocks
    ]
    write_blocks(str(folder), changed)


def _last(value: object) -> Callable[[np.ndarray], np.ndarray]:
    def change(column: np.ndarray) -> np.ndarray:
        column[-1] = value
        return column

    return change


MANIFESTS = [
    ("id", _last(7), r"ids 0\.\.359 are not there in order"),
    ("label", _last(9), r"label must be a class index in 0\.\.6, got 9"),
    ("label", lambda column: column[::-1], "class counts are"),
    ("valence", _last(2.0), r"sample 359 \('.*'\): valence-arousal must be two numbers in \[-1, 1\], got 2, "),
    ("valence", _last(0.25), "does not have the content hash"),
    ("key", _last("train-0000000"), "1 keys stand more than once"),
    ("split", _last("train"), r"sample 359 \('.*'\): it is in another split"),
]


@pytest.mark.parametrize(("name", "value", "finding"), MANIFESTS, ids=[finding[:30] for *_, finding in MANIFESTS])
def test_a_manifest_that_was_changed_is_found(
    copy: Path, name: str, value: Callable[[np.ndarray], np.ndarray], finding: str
) -> None:
    _change_manifest(copy, name, value)
    assert re.search(finding, "\n".join(check_manifest(Dataset.open(str(copy)), keys=True)))


def test_a_manifest_that_ends_early_is_found(copy: Path) -> None:
    (block,) = Dataset.open(str(copy)).blocks()
    write_blocks(str(copy), [block.slice(0, 300)])
    assert "the manifest has 300 rows, dataset.json says 360" in check_manifest(Dataset.open(str(copy)))


def _graph_findings(folder: Path) -> list[str]:
    dataset = Dataset.open(str(folder))
    graphs, findings = graphs_of(dataset)
    return findings + [line for place, graph in graphs for line in check_part(dataset, place, graph, 0)]


GRAPHS = [
    ("ids", 1_000_000, "has neighbours that are no training samples"),
    ("ids", 5, "sample 5 is among its own neighbours"),
    ("distances", np.nan, "has distances that are no numbers"),
    ("distances", 100.0, "has neighbours out of order"),
    ("distances", 0.0, "distances are not those of the valence-arousal"),
]


@pytest.mark.parametrize(("name", "value", "finding"), GRAPHS)
def test_a_graph_that_was_changed_is_found(copy: Path, name: str, value: float, finding: str) -> None:
    assert _graph_findings(copy) == []
    path = copy / "graph-K16" / f"{name}-00000.npy"
    array = np.load(path)
    array[5, 0] = value
    np.save(path, array)
    assert "is damaged" in _graph_findings(copy)[0]
    about = copy / "graph-K16" / "graph.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "checksums": {}}))
    assert any(finding in line for line in _graph_findings(copy))


def test_a_graph_of_another_version_is_found(copy: Path) -> None:
    write_info(str(copy), replace(Dataset.open(str(copy)).info, content_hash="other"))
    assert "belongs to another version" in _graph_findings(copy)[0]


def test_a_graph_file_that_pickles_is_not_opened(copy: Path) -> None:
    np.save(copy / "graph-K16" / "ids-00000.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "cannot be read" in _graph_findings(copy)[0]
