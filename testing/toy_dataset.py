"""A data set of nothing but a manifest: all that versions, graphs and plans look at."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo, ShardInfo, SplitInfo
from ldlva_dist.dataset.manifest_blocks import ContentHash, Tally

TRAIN, HOLDOUT, TEST, CLASSES = 60, 20, 15, 4
ROWS = TRAIN + HOLDOUT + TEST


def toy_dataset(folder: Path) -> str:
    """Four classes in turn, random points in the plane with a transform, and none of its shards."""
    uri, generator = str(folder / "set"), np.random.default_rng(0)
    (folder / "set").mkdir()
    ids, sizes = np.arange(ROWS), (TRAIN, HOLDOUT, TEST)
    split = pa.DictionaryArray.from_arrays(np.repeat([0, 1, 2], sizes).astype(np.int8), pa.array(manifest.SPLITS))
    va = {name: generator.uniform(-1, 1, ROWS).astype(np.float32) for name in ("valence", "arousal")}
    columns = dict.fromkeys(("id", "offset", "checksum"), ids)
    columns |= {"shard": split.indices, "size": np.ones(ROWS, np.int32), "label": ids % CLASSES}
    manifest.write_manifest(uri, pa.table({**columns, "key": [f"k{i}" for i in ids], **va, "split": split}))
    firsts = np.cumsum([0, *sizes]).tolist()
    transform, tally = {"mean": (0.1, -0.2), "std": (0.5, 2.0)}, Tally(tuple("abcd"))
    digest = ContentHash(tally.class_names, transform)
    info = DatasetInfo(
        name="toy",
        class_names=tally.class_names,
        splits={
            name: SplitInfo(first_id=first, rows=rows)
            for name, first, rows in zip(manifest.SPLITS, firsts, sizes, strict=False)
        },
        shards=tuple(
            ShardInfo(name=f"{name}-000000.tar", split=name, first_id=first, rows=rows, bytes=ROWS)
            for name, first, rows in zip(manifest.SPLITS, firsts, sizes, strict=False)
        ),
        has_valence_arousal=True,
        va_transform=transform,
        content_hash="",
        class_counts={},
        source={"kind": "test"},
    )
    for block in Dataset(uri, info).blocks():
        digest.update(block)
        tally.add(block)
    manifest.write_info(uri, replace(info, content_hash=digest.hexdigest(), class_counts=tally.class_counts()))
    return uri
