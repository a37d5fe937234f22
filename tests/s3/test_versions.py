"""A version on a store: annotated there piece by piece, read from there, and no tar is copied."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.dataset.manifest import (
    SPLITS,
    DatasetInfo,
    ShardInfo,
    SplitInfo,
    write_info,
    write_manifest,
)
from ldlva_dist.dataset.manifest_blocks import ContentHash
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.dataset.shards import ShardBuilder, crc32
from ldlva_dist.dataset.versions import Change, new_version
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.annotate.pieces import AnnotationWork, annotate_piece, open_pieces, stored_points
from ldlva_dist.packing.annotate.regressor import Regressor
from ldlva_dist.packing.annotate.settings import RegressorSettings
from ldlva_dist.training.evaluate import SplitReader
from testing.s3_store import Swift

DATASET = "s3://faces/sets/grey"
ROWS = {"train": 7, "holdout": 0, "test": 3}
LEVELS = np.arange(10) * 25


class ChannelMeans(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def dataset(swift: Swift) -> Dataset:
    """Ten grey images, each of one level, in two shards; valence-arousal is absent."""
    splits, shards, columns, first = {}, [], {"shard": [], "offset": [], "size": [], "checksum": []}, 0
    for split, rows in ROWS.items():
        splits[split] = SplitInfo(first_id=first, rows=rows)
        builder = ShardBuilder(first)
        for sample in range(first, first + rows):
            image = encode_image(np.full((16, 16, 3), LEVELS[sample], dtype=np.uint8))
            offset = builder.add(image, {"key": f"k{sample}"})
            for name, value in zip(columns, (len(shards), offset, len(image), crc32(image)), strict=True):
                columns[name].append(value)
        if rows:
            data, name = builder.close(), f"{split}-000000.tar"
            storage.write_bytes(storage.join(DATASET, name), data)
            shards.append(ShardInfo(name=name, split=split, first_id=first, rows=rows, bytes=len(data)))
        first += rows
    split = pa.DictionaryArray.from_arrays(np.repeat([0, 1, 2], list(ROWS.values())).astype(np.int8), pa.array(SPLITS))
    none, ids = pa.nulls(10, pa.float32()), np.arange(10)
    keys = [f"k{i}" for i in ids]
    table = {**columns, "id": ids, "label": ids % 2, "key": keys, "valence": none, "arousal": none, "split": split}
    write_manifest(DATASET, pa.table(table))
    info = DatasetInfo(
        name="grey",
        class_names=("a", "b"),
        splits=splits,
        shards=tuple(shards),
        has_valence_arousal=False,
        content_hash="",
        class_counts={"train": (4, 3), "holdout": (0, 0), "test": (1, 2)},
    )
    digest = ContentHash(("a", "b"), None)
    for block in Dataset(DATASET, info).blocks():
        digest.update(block)
    write_info(DATASET, replace(info, content_hash=digest.hexdigest()))
    return Dataset.open(DATASET)


def test_a_version_on_a_store_is_annotated_and_read_from_its_data_sets_shards(dataset: Dataset) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(ChannelMeans()), buffer)
    model, settings = buffer.getvalue(), RegressorSettings(input_size=16)
    work = AnnotationWork(
        dataset=dataset,
        parts_uri=AnnotationWork.parts_of(dataset, "bright"),
        model_name="means.pt",
        settings=settings,
        batch_size=2,
        clip=False,
        piece_rows=4,
    )
    regressor = Regressor(model, "means.pt", settings, threads=1, use_gpu=False)
    assert open_pieces(work, model).tolist() == [0, 1, 2]
    assert annotate_piece(work, 1, regressor).num_bad == 0
    assert open_pieces(work, model).tolist() == [0, 2]
    for piece in (0, 2):
        annotate_piece(work, piece, regressor)
    made = new_version(dataset, "bright", Change(line="test", columns=stored_points(work), needs_va=True))
    assert made == Dataset.open(f"{dataset.uri}/versions/bright")
    assert storage.list_folder(made.uri) == ["dataset.json", "manifest.parquet"]
    np.testing.assert_allclose(made.va(0, 10), np.stack([(LEVELS - 127.5) / 127.5] * 2, axis=1), atol=0.02)
    assert [made.shard_uri(number) for number in range(2)] == [
        f"{dataset.uri}/train-000000.tar",
        f"{dataset.uri}/test-000000.tar",
    ]
    reader = SplitReader(dataset=made, split="test", preparation=Preparation(size=16, channels=3, resize="antialias"))
    images = np.concatenate(list(reader.batches(0, 3)))
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), LEVELS[7:], atol=2)
    with pytest.raises(SettingError, match="must be new, got one that exists"):
        new_version(dataset, "bright", Change(line="again", columns=lambda block: {}))
    second = new_version(made, "second", Change(line="a version of a version", columns=lambda block: {}))
    assert (second.info.content_hash, second.info.parent) == (made.info.content_hash, made.info.content_hash)
    assert Dataset.open(f"{dataset.uri}/versions/second") == second


def test_a_version_that_fails_leaves_nothing_on_the_store(dataset: Dataset) -> None:
    nothing = Change(line="test", columns=lambda block: {}, needs_va=True)
    with pytest.raises(DataError, match="7 of 7 have none, the first is k0"):
        new_version(dataset, "failed", nothing)
    assert storage.list_folder(f"{dataset.uri}/versions/failed") == []
