"""A run of any size for bench/size/report.py and its tests: drawn faces in one shard, beliefs out of a generator.

Every row of the manifest points at one of a pool of drawn faces; labels, predictions and uncertainties hang together as
in a trained run. What the report reads of it is what it reads of a real one. N = samples, C = classes, K = neighbours.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from ldlva_dist.analysis import suspicion
from ldlva_dist.analysis.label_doubt import doubt_by_neighbors
from ldlva_dist.analysis.label_findings import Findings
from ldlva_dist.analysis.trained_run import Opinions
from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.dataset.manifest import DatasetInfo, ShardInfo, SplitInfo
from ldlva_dist.dataset.manifest_blocks import ContentHash
from ldlva_dist.index.graph import nearest_neighbors
from ldlva_dist.packing.sources.drawn_faces.faces import draw_faces, draw_people
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES

CLASSES = len(REFERENCE_CLASSES)


@dataclass(frozen=True, kw_only=True)
class SyntheticRun:
    """A data set on disk, and what a run would have found out."""

    dataset: Dataset
    findings: Findings
    va_N2: NDArray[np.float32]
    graph_NK: NDArray[np.int64]

    def opinions(self, ids_n: NDArray[np.int64]) -> Opinions:
        """As ``TrainedRun.opinions``."""
        near_nK = self.graph_NK[ids_n]
        shares_nK = np.random.default_rng(0).dirichlet(np.full(near_nK.shape[1], 2.0), len(ids_n)).astype(np.float32)
        aggregated_nC = self.findings.aggregated_NC[ids_n]
        uncertainty_n1 = self.findings.uncertainty_N[ids_n, None]
        label_nC = np.eye(aggregated_nC.shape[1])[self.findings.labels_N[ids_n]]
        target_nC = (1 - uncertainty_n1) * label_nC + uncertainty_n1 * aggregated_nC
        return Opinions(
            neighbors_nK=near_nK,
            shares_nK=shares_nK,
            aggregated_nC=aggregated_nC,
            target_nC=target_nC.astype(np.float32),
        )


def synthetic_run(
    folder: Path, *, rows: int | tuple[int, int, int], k: int = 8, pool: int = 1024, pixels: int = 112, seed: int = 0
) -> SyntheticRun:
    """Draw ``pool`` faces and a run over N samples, of which 20 % have wrong labels.

    ``rows`` is N, or the rows of the training, holdout and test part.
    """
    rows, *others = rows if isinstance(rows, tuple) else (rows, 0, 0)
    generator, total = np.random.default_rng(seed), rows + sum(others)
    people = draw_people(total, generator, 0.2)
    images = draw_faces(people.distribution[:pool], generator, pixels)
    files = [encode_image(image) for image in images]
    truth_N = people.distribution.argmax(axis=1)
    face_N = _faces_of(truth_N, truth_N[:pool], generator)
    dataset = folder / "faces"
    dataset.mkdir(parents=True)
    for part in manifest.SPLITS:
        (dataset / f"{part}-000000.tar").write_bytes(b"".join(files))
    size = np.array([len(data) for data in files])
    place = {"offset": np.cumsum(size) - size, "size": size, "checksum": np.array([crc32(data) for data in files])}
    columns = {name: values[face_N] for name, values in place.items()}
    split_n = np.repeat(np.arange(3), (rows, *others)).astype(np.int8)
    split = pa.DictionaryArray.from_arrays(split_n, pa.array(manifest.SPLITS))
    counts: dict[str, int] = dict(zip(manifest.SPLITS, (rows, *others), strict=True))
    parts = [(part, count) for part, count in counts.items() if count]
    shard_n = np.repeat(np.arange(len(parts), dtype=np.int32), [count for _, count in parts])
    table = pa.table(
        {"id": np.arange(total), "key": [f"face_{i:07d}" for i in range(total)], "shard": shard_n}
        | columns
        | {"label": people.labels, "valence": people.va[:, 0], "arousal": people.va[:, 1], "split": split}
    )
    manifest.write_manifest(str(dataset), table)
    first: dict[str, int] = dict(zip(manifest.SPLITS, (0, rows, rows + others[0]), strict=True))
    info = DatasetInfo(
        name=f"{rows:,} drawn faces",
        class_names=REFERENCE_CLASSES,
        splits={part: SplitInfo(first_id=first[part], rows=count) for part, count in counts.items()},
        shards=tuple(
            ShardInfo(name=f"{part}-000000.tar", split=part, first_id=first[part], rows=count, bytes=int(size.sum()))
            for part, count in parts
        ),
        has_valence_arousal=True,
        content_hash="",
        class_counts={
            part: tuple(np.bincount(people.labels[split_n == number], minlength=CLASSES).tolist())
            for number, part in enumerate(manifest.SPLITS)
        },
    )
    digest = ContentHash(REFERENCE_CLASSES, None)
    for block in Dataset(str(dataset), info).blocks():
        digest.update(block)
    info = replace(info, content_hash=digest.hexdigest())
    manifest.write_info(str(dataset), info)
    graph_NK = nearest_neighbors(people.va[:rows], k)[0].astype(np.int64)
    return SyntheticRun(
        dataset=Dataset(str(dataset), info),
        findings=_findings(people.distribution[:rows], people.labels[:rows], graph_NK, generator),
        va_N2=people.va[:rows],
        graph_NK=graph_NK,
    )


def _faces_of(
    truth_N: NDArray[np.int64], truth_p: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """[N] a face of the pool for everybody, of the right class; the pool's own people keep theirs."""
    face_N = np.arange(len(truth_N))
    for label in range(CLASSES):
        mine = np.flatnonzero(truth_N == label)
        face_N[mine] = generator.choice(np.flatnonzero(truth_p == label), len(mine))
    face_N[: len(truth_p)] = np.arange(len(truth_p))
    return face_N


def _findings(
    truth_NC: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    graph_NK: NDArray[np.int64],
    generator: np.random.Generator,
) -> Findings:
    def noisy(noise: float) -> NDArray[np.float32]:
        logits_NC = np.log(truth_NC + 1e-3) + generator.normal(0, noise, truth_NC.shape)
        weights_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        return (weights_NC / weights_NC.sum(axis=1, keepdims=True)).astype(np.float32)

    probs_NC, aggregated_NC = noisy(0.6), noisy(0.4)
    logit_N = 1.5 - 4 * suspicion.of_label(aggregated_NC, labels_N) + generator.normal(0, 0.5, len(labels_N))
    uncertainty_N = (1 / (1 + np.exp(-logit_N))).astype(np.float32)
    weight = suspicion.model_weight(probs_NC, aggregated_NC, labels_N)
    pooled_NC = suspicion.pooled(probs_NC, aggregated_NC, weight)
    doubt_N = doubt_by_neighbors([graph_NK], labels_N, np.ones(len(labels_N), dtype=bool), CLASSES)
    return Findings(
        labels_N=labels_N,
        uncertainty_N=uncertainty_N,
        probs_NC=probs_NC,
        aggregated_NC=aggregated_NC,
        suspicion_N=suspicion.self_confidence(pooled_NC, labels_N),
        expected_C=np.bincount(labels_N, doubt_N, CLASSES).astype(np.float64),
        proposed_N=pooled_NC.argmax(axis=1),
    )
