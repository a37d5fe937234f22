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
from ldlva_dist.dataset import dataset as opened
from ldlva_dist.dataset import manifest, manifest_blocks
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo, ShardInfo, SplitInfo
from ldlva_dist.dataset.manifest_blocks import ContentHash
from ldlva_dist.dataset.versions import Change, new_version
from ldlva_dist.errors import DataError, SettingError

ROWS, TRAIN = 11, 7
NOTHING = Change(line="nothing", columns=lambda block: {})


@pytest.fixture(autouse=True)
def _small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (manifest, manifest_blocks, opened):
        monkeypatch.setattr(module, "ROW_GROUP_ROWS", 4)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
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
        content_hash="",
        class_counts={"train": (4, 3), "holdout": (1, 1), "test": (1, 1)},
        source={"kind": "test"},
    )
    info = replace(info, content_hash=_hash(Dataset(uri, info)))
    manifest.write_info(uri, info)
    return Dataset(uri, info)


def _hash(dataset: Dataset) -> str:
    digest = ContentHash(("a", "b"), dataset.info.va_transform)
    for block in dataset.blocks():
        digest.update(block)
    return digest.hexdigest()


def _version(dataset: Dataset, name: str) -> Dataset:
    return Dataset.open(f"{dataset.uri}/versions/{name}")


def _va(value: float) -> Change:
    return Change(
        line="one point", columns=lambda block: dict.fromkeys(("valence", "arousal"), pa.array([value] * len(block)))
    )


def test_the_hash_is_of_names_transform_and_each_row_groups_columns(dataset: Dataset) -> None:
    digest, table = hashlib.sha256(b'[["a", "b"], null]'), dataset.columns(manifest_blocks.HASHED)
    for begin in range(0, ROWS, 4):
        for name in manifest_blocks.HASHED:
            cells = table[name].slice(begin, 4).to_pylist()
            kind = {"checksum": np.uint32, "label": np.int16}.get(name, np.float32)
            text = name in ("key", "split")
            digest.update("\n".join(cells).encode() if text else np.asarray(cells, dtype=kind).tobytes())
    assert _hash(dataset) == digest.hexdigest()


def test_a_version_without_a_change_has_the_content_of_its_parent(dataset: Dataset) -> None:
    old, new = dataset.info, new_version(dataset, "v1", NOTHING)
    assert _version(dataset, "v1") == new
    assert (new.info.content_hash, new.info.class_counts) == (old.content_hash, old.class_counts)
    assert pq.read_table(f"{new.uri}/manifest.parquet").equals(pq.read_table(f"{dataset.uri}/manifest.parquet"))


def test_a_version_has_its_own_columns_and_the_shards_of_its_data_set(dataset: Dataset) -> None:
    change = Change(
        line="labels turned, valence halved",
        columns=lambda block: {
            "label": pa.array(1 - block["label"].to_numpy()),
            "valence": pa.array(block["valence"].to_numpy() / 2),
        },
        source={"relabelled": "by hand"},
    )
    old, new = dataset.info, new_version(dataset, "v1", change)
    there, here = (pq.read_table(f"{place}/manifest.parquet") for place in (dataset.uri, new.uri))
    np.testing.assert_array_equal(here["label"].to_numpy(), 1 - there["label"].to_numpy())
    np.testing.assert_allclose(new.va(3, 2)[:, 0], np.asarray([3, 4]) / ROWS / 2, rtol=1e-6)
    assert here.drop_columns(["label", "valence"]).equals(there.drop_columns(["label", "valence"]))
    assert pq.read_metadata(f"{new.uri}/manifest.parquet").num_row_groups == 3
    assert new.info.class_counts == {"train": (3, 4), "holdout": (1, 1), "test": (1, 1)}
    assert (new.info.parent, new.info.root, new.info.change) == (old.content_hash, old.content_hash, change.line)
    assert new.info.source == {"kind": "test", "relabelled": "by hand"}
    assert new.info.content_hash == _hash(new) != old.content_hash
    assert new.shard_uri(0) == f"{dataset.uri}/train-000000.tar"
    assert set(os.listdir(new.uri)) == {"dataset.json", "manifest.parquet"}


def test_a_version_of_a_version_lies_beside_it_and_names_it_as_its_parent(dataset: Dataset) -> None:
    first = new_version(dataset, "v1", _va(0.5))
    second = new_version(first, "v2", _va(-0.5))
    assert _version(dataset, "v2") == second
    assert (second.info.parent, second.info.rows_hash) == (first.info.content_hash, dataset.info.content_hash)
    assert second.root_uri == dataset.uri


def test_standardising_is_by_the_training_rows(dataset: Dataset) -> None:
    new = new_version(dataset, "v1", replace(NOTHING, scale="standard"))
    assert new.info.va_transform is not None
    va = new.va(0, TRAIN)
    np.testing.assert_allclose(va.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(va.std(axis=0), 1, rtol=1e-6)
    assert new.info.content_hash == _hash(new)
    assert new_version(new, "kept", NOTHING).info.va_transform == new.info.va_transform
    assert new_version(new, "raw", replace(NOTHING, scale="raw")).info.va_transform is None


def test_no_valence_arousal_at_all_is_said_and_some_of_it_is_refused(dataset: Dataset) -> None:
    assert not new_version(dataset, "none", _va(np.nan)).info.has_valence_arousal

    def gaps(block: pa.Table) -> Mapping[str, pa.Array]:
        return {"valence": pa.array(np.where(block["id"].to_numpy() % 4 == 2, np.nan, 0.5))}

    with pytest.raises(DataError, match="2 of 7 have none, the first is k2"):
        new_version(dataset, "gaps", Change(line="gaps", columns=gaps))
    assert os.listdir(f"{dataset.uri}/versions") == ["none"]


def test_a_label_that_is_no_class_is_named(dataset: Dataset) -> None:
    change = Change(line="shifted", columns=lambda block: {"label": pa.array(block["id"].to_numpy() - 8)})
    with pytest.raises(DataError, match=r"class index in 0\.\.1, got -8 for k0"):
        new_version(dataset, "v1", change)
    assert os.listdir(f"{dataset.uri}/versions") == []


def test_points_that_do_not_vary_cannot_be_standardised(dataset: Dataset) -> None:
    with pytest.raises(SettingError, match="varies over the training rows"):
        new_version(dataset, "v1", replace(_va(0.25), scale="standard"))


def test_a_name_is_taken_once_and_is_a_plain_one(dataset: Dataset) -> None:
    new_version(dataset, "v1", NOTHING)
    with pytest.raises(SettingError, match="must be new, got one that exists"):
        new_version(dataset, "v1", NOTHING)
    for name in ("", "..", "a/b", ".hidden", "a..b", "name with blanks"):
        with pytest.raises(SettingError, match="version's name"):
            new_version(dataset, name, NOTHING)


@pytest.mark.parametrize("rows", [1, 3, ROWS])
def test_a_manifest_cut_otherwise_gives_the_same_version(dataset: Dataset, rows: int) -> None:
    expected = new_version(dataset, "v1", _va(0.5))
    path = f"{dataset.uri}/manifest.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=rows)
    assert new_version(dataset, "v2", _va(0.5)).info == expected.info
    assert _hash(_version(dataset, "v2")) == expected.info.content_hash


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
def test_a_base_leads_upwards(dataset: Dataset, uri: str, base: str, root: str) -> None:
    assert Dataset(uri, replace(dataset.info, base=base)).root_uri == root


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
def test_a_base_that_is_no_ancestor_in_its_store_is_refused(dataset: Dataset, uri: str, base: str) -> None:
    with pytest.raises(DataError, match="base must be"):
        _ = Dataset(uri, replace(dataset.info, base=base)).root_uri


def test_nothing_is_written_where_a_base_leads_and_no_data_set_is(dataset: Dataset, tmp_path: Path) -> None:
    info = dataset.info
    for folder in ("a/b/set", "a/versions/set"):
        place = tmp_path / folder
        shutil.copytree(dataset.uri, place)
        manifest.write_info(str(place), replace(info, base="../..", root=info.content_hash))
        with pytest.raises(DataError, match=r"base must be|is not a data set"):
            new_version(Dataset.open(str(place)), "v1", NOTHING)
    shutil.copytree(dataset.uri, tmp_path / "a", dirs_exist_ok=True)
    manifest.write_info(str(tmp_path / "a"), replace(info, content_hash="another"))
    with pytest.raises(DataError, match="is a version of another data set"):
        new_version(Dataset.open(str(tmp_path / "a/versions/set")), "v1", NOTHING)
    assert not (tmp_path / "a/versions/v1").exists()
    assert not (tmp_path / "versions").exists()


def test_a_link_leads_no_version_out_of_its_data_set(dataset: Dataset, tmp_path: Path) -> None:
    tmp_path.joinpath("elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", f"{dataset.uri}/versions")
    with pytest.raises(DataError, match=r"must be a folder of the data set .* got a link"):
        new_version(dataset, "v1", NOTHING)
    assert not os.listdir(tmp_path / "elsewhere")
    os.unlink(f"{dataset.uri}/versions")
    os.symlink(dataset.uri, tmp_path / "link")
    new_version(Dataset.open(str(tmp_path / "link")), "v1", NOTHING)
    assert Dataset.open(f"{tmp_path}/link/versions/v1").info == _version(dataset, "v1").info


def test_a_relative_path_of_a_version_finds_its_data_set(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    new = new_version(dataset, "v1", NOTHING)
    monkeypatch.chdir(new.uri)
    assert Dataset(".", new.info).root_uri == dataset.uri


@pytest.fixture
def checkpoint(dataset: Dataset, tmp_path: Path) -> Checkpoint:
    """A checkpoint without files that was trained on the data set itself."""
    info, folder = dataset.info, tmp_path / "checkpoint"
    facts = {"class_names": list(info.class_names), "content_hash": info.content_hash, "rows_hash": info.rows_hash}
    write_state(str(folder), facts | {"step": 3}, {})
    return Checkpoint.open(str(folder))


def test_a_checkpoint_is_used_with_another_version_only_where_that_is_allowed(
    dataset: Dataset, checkpoint: Checkpoint
) -> None:
    version = new_version(dataset, "v1", _va(0.5)).info
    with pytest.raises(SettingError, match=r"must be the version the checkpoint was trained on.*--allow-other-version"):
        checkpoint.require_data_set(version)
    checkpoint.require_data_set(version, allow_other_version=True)
    assert checkpoint.has_rows_of(version)
    assert checkpoint.has_rows_of(dataset.info)
    assert not checkpoint.has_rows_of(replace(version, root="0" * 64))
    before_versions = Facts("state.json", {"content_hash": version.rows_hash, "files": {}})
    assert Checkpoint("here", before_versions).has_rows_of(version)
    other_order = replace(version, class_names=("b", "a"))
    with pytest.raises(SettingError, match="checkpoint's classes in its order"):
        checkpoint.require_data_set(other_order, allow_other_version=True)
