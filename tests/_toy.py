"""A data set of nothing but a manifest: all that versions, graphs and plans look at."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from ldlva_dist.data import manifest
from ldlva_dist.data.manifest import DatasetInfo, ShardInfo, SplitInfo

TRAIN, HOLDOUT, TEST, CLASSES = 60, 20, 15, 4
ROWS = TRAIN + HOLDOUT + TEST


def toy_dataset(folder: Path) -> str:
    """Four classes in turn, random points in the plane with a transform, and no shards."""
    uri, generator = str(folder / "set"), np.random.default_rng(0)
    (folder / "set").mkdir()
    ids, sizes = np.arange(ROWS), (TRAIN, HOLDOUT, TEST)
    split = pa.DictionaryArray.from_arrays(np.repeat([0, 1, 2], sizes).astype(np.int8), pa.array(manifest.SPLITS))
    va = {name: generator.uniform(-1, 1, ROWS).astype(np.float32) for name in ("valence", "arousal")}
    columns = dict.fromkeys(("id", "shard", "offset", "size", "checksum"), ids)
    table = pa.table({**columns, "label": ids % CLASSES, "key": [f"k{i}" for i in ids], **va, "split": split})
    manifest.write_manifest(uri, table)
    firsts = np.cumsum([0, *sizes]).tolist()
    info = DatasetInfo(
        name="toy",
        class_names=tuple("abcd"),
        splits={
            name: SplitInfo(first_id=first, rows=rows)
            for name, first, rows in zip(manifest.SPLITS, firsts, sizes, strict=False)
        },
        shards=(ShardInfo(name="train-000000.tar", split="train", first_id=0, rows=TRAIN, bytes=70),),
        has_valence_arousal=True,
        va_transform={"mean": (0.1, -0.2), "std": (0.5, 2.0)},
        content_hash="0" * 64,
        class_counts=dict.fromkeys(manifest.SPLITS, (1,) * CLASSES),
        source={"kind": "test"},
    )
    manifest.write_info(uri, info)
    return uri
