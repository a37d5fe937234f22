"""Versions: other columns over the same shards, row group by row group, complete or not at all."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.state_file import Facts, write_state
from ldlva_dist.dataset import manifest, manifest_blocks
from ldlva_dist.dataset.manifest import DatasetInfo, ShardInfo, SplitInfo, read_columns, read_info, read_va
from ldlva_dist.dataset.manifest_blocks import ContentHash, read_blocks
from ldlva_dist.dataset.versions import Change, new_version, root_uri, shard_uri
from ldlva_dist.errors import DataError, SettingError

ROWS, TRAIN = 11, 7
NOTHING = Change(line="nothing", columns=lambda block: {})


@pytest.fixture(autouse=True)
def _small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (manifest, manifest_blocks):
        monkeypatch.setattr(module, "ROW_GROUP_ROWS", 4)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Eleven rows in three row groups: seven of train, two of holdout, two of test."""
    uri = str(tmp_path / "set")
    os.mkdir(uri)
    ids = np.arange(ROWS)
    split = pa.DictionaryArray.from_arrays(
        np.repeat([0, 1, 2], [TRAIN, 2, 2]).astype(np.int8), pa.array(manifest.SPLITS)
    )
    columns = dict.fromkeys(("id", "shard", "offset", "size", "checksum"), ids)
    va = {"valence": (ids / ROWS).astype(np.float32), "arousal": (-ids / ROWS).astype(np.float32)}
    table = pa.table({**columns, "label": ids % 2, "key": [f"k{i}" for i in ids], **va, "split": split})
    manifest.write_manifest(uri, table)
    info = DatasetInfo(
        name="toy",
        class_names=("a", "b"),
        splits={
            "train": SplitInfo(first_id=0, rows=TRAIN),
            "holdout": SplitInfo(first_id=TRAIN, rows=2),
            "test": SplitInfo(first_id=TRAIN + 2, rows=2),
        },
        shards=(ShardInfo(name="train-000000.tar", split="train", first_id=0, rows=TRAIN, bytes=70),),
        has_valence_arousal=True,
        content_hash=_hash(uri),
        class_counts={"train": (4, 3), "holdout": (1, 1), "test": (1, 1)},
        source={"kind": "test"},
    )
    manifest.write_info(uri, info)
    return uri


def _hash(uri: str, transform: Mapping[str, tuple[float, float]] | None = None) -> str:
    digest = ContentHash(("a", "b"), transform)
    for block in read_blocks(uri):
        digest.update(block)
    return digest.hexdigest()


def _version(dataset: str, name: str) -> str:
    return f"{dataset}/versions/{name}"


def _va(value: float) -> Change:
    return Change(
        line="one point", columns=lambda block: dict.fromkeys(("valence", "arousal"), pa.array([value] * len(block)))
    )


def test_the_hash_is_of_names_transform_and_each_row_groups_columns(dataset: str) -> None:
    digest, table = hashlib.sha256(b'[["a", "b"], null]'), read_columns(dataset, manifest_blocks.HASHED)
    for begin in range(0, ROWS, 4):
        for name in manifest_blocks.HASHED:
            cells = table[name].slice(begin, 4).to_pylist()
            kind = {"checksum": np.uint32, "label": np.int16}.get(name, np.float32)
            text = name in ("key", "split")
            digest.update("\n".join(cells).encode() if text else np.asarray(cells, dtype=kind).tobytes())
    assert _hash(dataset) == digest.hexdigest()


def test_a_version_without_a_change_has_the_content_of_its_parent(dataset: str) -> None:
    old, new = read_info(dataset), new_version(dataset, "v1", NOTHING)
    assert read_info(_version(dataset, "v1")) == new
    assert (new.content_hash, new.class_counts) == (old.content_hash, old.class_counts)
    assert pq.read_table(f"{_version(dataset, 'v1')}/manifest.parquet").equals(
        pq.read_table(f"{dataset}/manifest.parquet")
    )


def test_a_version_has_its_own_columns_and_the_shards_of_its_data_set(dataset: str) -> None:
    change = Change(
        line="labels turned, valence halved",
        columns=lambda block: {
            "label": pa.array(1 - block["label"].to_numpy()),
            "valence": pa.array(block["valence"].to_numpy() / 2),
        },
        source={"relabelled": "by hand"},
    )
    new, uri = new_version(dataset, "v1", change), _version(dataset, "v1")
    old = read_info(dataset)
    there, here = (pq.read_table(f"{place}/manifest.parquet") for place in (dataset, uri))
    np.testing.assert_array_equal(here["label"].to_numpy(), 1 - there["label"].to_numpy())
    np.testing.assert_allclose(read_va(uri, 3, 2)[:, 0], np.asarray([3, 4]) / ROWS / 2, rtol=1e-6)
    assert here.drop_columns(["label", "valence"]).equals(there.drop_columns(["label", "valence"]))
    assert pq.read_metadata(f"{uri}/manifest.parquet").num_row_groups == 3
    assert new.class_counts == {"train": (3, 4), "holdout": (1, 1), "test": (1, 1)}
    assert (new.parent, new.root, new.change) == (old.content_hash, old.content_hash, change.line)
    assert new.source == {"kind": "test", "relabelled": "by hand"}
    assert new.content_hash == _hash(uri) != old.content_hash
    assert shard_uri(uri, new, new.shards[0]) == f"{dataset}/train-000000.tar"
    assert set(os.listdir(uri)) == {"dataset.json", "manifest.parquet"}


def test_a_version_of_a_version_lies_beside_it_and_names_it_as_its_parent(dataset: str) -> None:
    first = new_version(dataset, "v1", _va(0.5))
    second = new_version(_version(dataset, "v1"), "v2", _va(-0.5))
    assert read_info(_version(dataset, "v2")) == second
    assert (second.parent, second.rows_hash) == (first.content_hash, read_info(dataset).content_hash)
    assert root_uri(_version(dataset, "v2"), second) == dataset


def test_standardising_is_by_the_training_rows(dataset: str) -> None:
    new = new_version(dataset, "v1", replace(NOTHING, scale="standard"))
    assert new.va_transform is not None
    va = read_va(_version(dataset, "v1"), 0, TRAIN)
    np.testing.assert_allclose(va.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(va.std(axis=0), 1, rtol=1e-6)
    assert new.content_hash == _hash(_version(dataset, "v1"), new.va_transform)
    assert new_version(_version(dataset, "v1"), "kept", NOTHING).va_transform == new.va_transform
    assert new_version(_version(dataset, "v1"), "raw", replace(NOTHING, scale="raw")).va_transform is None


def test_no_valence_arousal_at_all_is_said_and_some_of_it_is_refused(dataset: str) -> None:
    assert not new_version(dataset, "none", _va(np.nan)).has_valence_arousal

    def gaps(block: pa.Table) -> Mapping[str, pa.Array]:
        return {"valence": pa.array(np.where(block["id"].to_numpy() % 4 == 2, np.nan, 0.5))}

    with pytest.raises(DataError, match="2 of 7 have none, the first is k2"):
        new_version(dataset, "gaps", Change(line="gaps", columns=gaps))
    assert os.listdir(f"{dataset}/versions") == ["none"]


def test_a_label_that_is_no_class_is_named(dataset: str) -> None:
    change = Change(line="shifted", columns=lambda block: {"label": pa.array(block["id"].to_numpy() - 8)})
    with pytest.raises(DataError, match=r"class index in 0\.\.1, got -8 for k0"):
        new_version(dataset, "v1", change)
    assert os.listdir(f"{dataset}/versions") == []


def test_points_that_do_not_vary_cannot_be_standardised(dataset: str) -> None:
    with pytest.raises(SettingError, match="varies over the training rows"):
        new_version(dataset, "v1", replace(_va(0.25), scale="standard"))


def test_a_name_is_taken_once_and_is_a_plain_one(dataset: str) -> None:
    new_version(dataset, "v1", NOTHING)
    with pytest.raises(SettingError, match="must be new, got one that exists"):
        new_version(dataset, "v1", NOTHING)
    for name in ("", "..", "a/b", ".hidden", "a..b", "name with blanks"):
        with pytest.raises(SettingError, match="version's name"):
            new_version(dataset, name, NOTHING)


@pytest.mark.parametrize("rows", [1, 3, ROWS])
def test_a_manifest_cut_otherwise_gives_the_same_version(dataset: str, rows: int) -> None:
    expected = new_version(dataset, "v1", _va(0.5))
    pq.write_table(pq.read_table(f"{dataset}/manifest.parquet"), f"{dataset}/manifest.parquet", row_group_size=rows)
    assert new_version(dataset, "v2", _va(0.5)) == expected
    assert _hash(_version(dataset, "v2")) == expected.content_hash


@pytest.mark.parametrize(
    ("uri", "base", "root"),
    [
        ("s3://bucket/faces/versions/v1", "../..", "s3://bucket/faces"),
        ("s3://bucket/faces/versions/v1/", "../..", "s3://bucket/faces"),
        ("s3://bucket/versions/v1", "../..", "s3://bucket"),
        ("/data/faces/versions/v1", "../..", "/data/faces"),
        ("/versions/v1", "../..", "/"),
    ],
)
def test_a_base_leads_upwards(dataset: str, uri: str, base: str, root: str) -> None:
    assert root_uri(uri, replace(read_info(dataset), base=base)) == root


@pytest.mark.parametrize(
    ("uri", "base"),
    [
        ("s3://bucket/v1", "../.."),
        ("s3://bucket/faces/versions/..", "../.."),
        ("s3://versions/v1", "../.."),
        ("/data/a/set", "../.."),
        ("/data/versions/v1/deeper", "../.."),
        ("/data/versions/v1", ".."),
        ("/data/versions/v1", "../../"),
        ("/data/versions/v1", "../../."),
        ("s3://bucket/a/versions/v1", "../../../.."),
        ("/v1", "../.."),
        ("/data/versions/v1", "../../other"),
        ("/data/versions/v1", "/data"),
        ("/data/versions/v1", "s3://elsewhere/data"),
        ("/data/versions/v1", ""),
        ("/data/versions/v1", "."),
    ],
)
def test_a_base_that_is_no_ancestor_in_its_store_is_refused(dataset: str, uri: str, base: str) -> None:
    with pytest.raises(DataError, match="base must be"):
        root_uri(uri, replace(read_info(dataset), base=base))


def test_nothing_is_written_where_a_base_leads_and_no_data_set_is(dataset: str, tmp_path: Path) -> None:
    info = read_info(dataset)
    for folder in ("a/b/set", "a/versions/set"):
        place = tmp_path / folder
        shutil.copytree(dataset, place)
        manifest.write_info(str(place), replace(info, base="../..", root=info.content_hash))
        with pytest.raises(DataError, match=r"base must be|is not a data set"):
            new_version(str(place), "v1", NOTHING)
    shutil.copytree(dataset, tmp_path / "a", dirs_exist_ok=True)
    manifest.write_info(str(tmp_path / "a"), replace(info, content_hash="another"))
    with pytest.raises(DataError, match="is a version of another data set"):
        new_version(str(tmp_path / "a/versions/set"), "v1", NOTHING)
    assert not (tmp_path / "a/versions/v1").exists()
    assert not (tmp_path / "versions").exists()


def test_a_link_leads_no_version_out_of_its_data_set(dataset: str, tmp_path: Path) -> None:
    tmp_path.joinpath("elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", f"{dataset}/versions")
    with pytest.raises(DataError, match=r"must be a folder of the data set .* got a link"):
        new_version(dataset, "v1", NOTHING)
    assert not os.listdir(tmp_path / "elsewhere")
    os.unlink(f"{dataset}/versions")
    os.symlink(dataset, tmp_path / "link")
    new_version(str(tmp_path / "link"), "v1", NOTHING)
    assert read_info(f"{tmp_path}/link/versions/v1") == read_info(_version(dataset, "v1"))


def test_a_relative_path_of_a_version_finds_its_data_set(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    info = new_version(dataset, "v1", NOTHING)
    monkeypatch.chdir(_version(dataset, "v1"))
    assert root_uri(".", info) == dataset


@pytest.fixture
def checkpoint(dataset: str, tmp_path: Path) -> Checkpoint:
    """A checkpoint without files that was trained on the data set itself."""
    info, folder = read_info(dataset), tmp_path / "checkpoint"
    facts = {"class_names": list(info.class_names), "content_hash": info.content_hash, "rows_hash": info.rows_hash}
    write_state(str(folder), facts | {"step": 3}, {})
    return Checkpoint.open(str(folder))


def test_a_checkpoint_is_used_with_another_version_only_where_that_is_allowed(
    dataset: str, checkpoint: Checkpoint
) -> None:
    version = new_version(dataset, "v1", _va(0.5))
    with pytest.raises(SettingError, match=r"must be the version the checkpoint was trained on.*--allow-other-version"):
        checkpoint.require_data_set(version)
    checkpoint.require_data_set(version, allow_other_version=True)
    assert checkpoint.has_rows_of(version)
    assert checkpoint.has_rows_of(read_info(dataset))
    assert not checkpoint.has_rows_of(replace(version, root="0" * 64))
    before_versions = Facts("state.json", {"content_hash": version.rows_hash, "files": {}})
    assert Checkpoint("here", before_versions).has_rows_of(version)
    other_order = replace(version, class_names=("b", "a"))
    with pytest.raises(SettingError, match="checkpoint's classes in its order"):
        checkpoint.require_data_set(other_order, allow_other_version=True)
