"""Claim: packing FER+'s 28.5 k training faces takes under 60 s on two cores, cluster not counted; the same bytes twice.

With --source FILE.parquet: image_bytes, name, fer2013_label, valence, arousal and the vote columns, as FER+ joined to
FER2013 by name. Without it as many drawn faces of 48 pixels are written to a parquet file first and packed from there.
"""

import hashlib
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import tyro

from bench.common import cluster, report
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.packing.passes.pack import pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource
from ldlva_dist.packing.sources.readers.parquet import ParquetSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES, Source
from ldlva_dist.packing.sources.user_columns import UserColumns

VOTES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is packed, and on how many CPUs."""

    source: str | None = None
    rows: int = 28_558
    """Drawn faces, where there is no --source."""
    cpus: int = 2
    twice: bool = True
    """Pack a second time and compare all files."""


def main(arguments: Arguments) -> None:
    """Pack and print."""
    with tempfile.TemporaryDirectory() as folder, cluster(arguments.cpus):
        source = _source(arguments, folder)
        ray.get([ray.remote(_warm).remote() for _ in range(arguments.cpus)], timeout=120)
        runs = [_pack(source, f"{folder}/set") for _ in range(1 + arguments.twice)]
    infos, seconds, hashes = zip(*runs, strict=True)
    packed = sum(split.rows for split in infos[0].splits.values())
    report(
        "pack",
        ok=seconds[0] < LIMIT_S and len(set(hashes)) == 1,
        rows=packed,
        rejected=infos[0].num_rejected,
        unlabelled=infos[0].num_unlabelled,
        shards=len(infos[0].shards),
        seconds=list(seconds),
        limit_s=LIMIT_S,
        rows_per_s=packed / seconds[0],
        ray_cpus=arguments.cpus,
        same_bytes_twice=len(set(hashes)) == 1 if arguments.twice else None,
        driver_peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        source="file" if arguments.source else "drawn",
    )


def _pack(source: Source, output: str) -> tuple[DatasetInfo, float, str]:
    """What was packed, the seconds it took, and a hash of all files, which are removed again."""
    begin = time.perf_counter()
    packed = pack(source, output, PackSettings(name="bench", class_names=REFERENCE_CLASSES, max_rejected=0.05))
    seconds = time.perf_counter() - begin
    digest = _hash(Path(output))
    shutil.rmtree(output)
    return packed.info, seconds, digest


def _source(arguments: Arguments, folder: str) -> Source:
    uri = arguments.source or f"{folder}/faces.parquet"
    if not arguments.source:
        _draw(uri, arguments.rows)
    return ParquetSource(
        files={"train": (uri,)},
        columns=UserColumns(label="fer2013_label"),
        image="image_bytes",
        key="name",
        votes=VOTES if arguments.source else (),
    )


def _draw(uri: str, rows: int) -> None:
    """A table like FER+'s, of drawn faces."""
    faces = FacesSource(train=rows, test=0)
    schema = pa.schema(
        [("name", pa.string()), ("image_bytes", pa.binary()), ("fer2013_label", pa.string())]
        + [(name, pa.float32()) for name in ("valence", "arousal")]
    )
    with pq.ParquetWriter(uri, schema) as writer:
        for partition in faces.partitions():
            for block in faces.read(partition):
                labels = [REFERENCE_CLASSES[int(label or 0)] for label in block.labels]
                va = np.asarray(block.va)
                columns = [list(block.keys), list(block.images), labels, va[:, 0], va[:, 1]]
                writer.write_table(pa.table(columns, schema=schema))


def _warm() -> None:
    """Workers that run are what a cluster has."""
    from ldlva_dist.packing.passes import pack as engine

    assert engine


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
