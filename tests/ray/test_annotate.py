"""Valence-arousal for a data set that has none, by a model or from a table; then a graph and a run on the version."""

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from ldlva_dist.analysis.scoring import score
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import decode
from ldlva_dist.dataset.versions import Change, new_version
from ldlva_dist.errors import DataError, LdlvaError, SettingError
from ldlva_dist.index.graph import build_graph
from ldlva_dist.packing.annotate.annotate import Pool, annotate_by_model, annotate_by_table
from ldlva_dist.packing.annotate.pieces import AnnotationWork, annotate_piece, open_pieces
from ldlva_dist.packing.annotate.regressor import Regressor
from ldlva_dist.packing.annotate.settings import RegressorSettings
from ldlva_dist.packing.annotate.va_table import PointFile
from ldlva_dist.run import launch
from testing.clusters.job_scripts import Scripts
from testing.tiny_runs import tiny_run

pytestmark = pytest.mark.usefixtures("cluster")
POOL, ONE = Pool(num_actors=2, cpus=0.5, gpus=0), Pool(num_actors=1, cpus=0.5, gpus=0)


class Brightness(nn.Module):
    """Valence is the mean of the pixels on the reference's scale, arousal their standard deviation."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.factor * torch.stack([flat.mean(1), flat.std(1, unbiased=False)], dim=1)


def _model(factor: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Brightness(factor)), buffer)
    return buffer.getvalue()


def _work(dataset: str, name: str, *, clip: bool = False) -> AnnotationWork:
    return AnnotationWork(
        dataset=Dataset.open(dataset),
        parts_uri=AnnotationWork.parts_of(Dataset.open(dataset), name),
        model_name="brightness.pt",
        settings=RegressorSettings(input_size=48),
        batch_size=20,
        clip=clip,
        piece_rows=100,
    )


def _annotate(
    work: AnnotationWork, name: str, model: bytes, seen: list[int] | None = None, pool: Pool = POOL
) -> Dataset:
    said = [] if seen is None else seen
    return annotate_by_model(work, name, model, pool, standardize=False, report=lambda done, total: said.append(done))


def _brightness(dataset: str) -> np.ndarray:
    """[n, 2] of every row, by numpy."""
    points = []
    for data in Dataset.open(dataset).images(range(360)).read_all():
        image = decode(data, 3)
        pixels = (image.astype(np.float64) - 127.5) / 127.5
        points.append((pixels.mean(), pixels.std()))
    return np.asarray(points)


@pytest.fixture(scope="module")
def plain(cluster: None, faces: str) -> str:
    """The drawn faces as a version without valence-arousal; other versions come to lie beside it."""
    empty = Change(
        line="none",
        columns=lambda block: dict.fromkeys(("valence", "arousal"), pa.array(np.full(len(block), np.nan, np.float32))),
    )
    assert not new_version(Dataset.open(faces), "plain", empty).info.has_valence_arousal
    return f"{faces}/versions/plain"


@pytest.fixture(scope="module")
def annotated(plain: str, faces: str) -> str:
    """The version with points by the model."""
    seen: list[int] = []
    made = _annotate(_work(plain, "bright"), "bright", _model(), seen)
    assert seen[0] == 0
    assert seen[-1] == 360
    assert made.info.has_valence_arousal
    assert made == Dataset.open(f"{faces}/versions/bright")
    return made.uri


def test_a_model_gives_every_row_of_every_split_its_points(annotated: str, plain: str, faces: str) -> None:
    va, info = Dataset.open(annotated).va(0, 360), Dataset.open(annotated).info
    np.testing.assert_allclose(va, _brightness(faces), atol=1e-5)
    assert info.parent == Dataset.open(plain).info.content_hash
    assert info.rows_hash == Dataset.open(faces).info.content_hash
    assert info.source["va_source"]["model"] == "brightness.pt"
    assert info.change == "valence-arousal by brightness.pt"
    assert not os.path.exists(AnnotationWork.parts_of(Dataset.open(annotated), "bright"))
    same = ["id", "key", "shard", "offset", "size", "checksum", "label", "split", "flipped"]
    assert Dataset.open(annotated).columns(same).equals(Dataset.open(faces).columns(same))


def test_a_checkpoint_is_judged_and_gone_on_with_on_its_version_alone(
    alone: launch.RunResult, annotated: str, faces: str, tmp_path: Path
) -> None:
    here, own = score(alone.checkpoint, Dataset.open(faces)), Dataset.open(faces).info.content_hash
    assert here["version"] == here["trained_version"] == own
    with pytest.raises(SettingError, match="must be the version the checkpoint was trained on"):
        score(alone.checkpoint, Dataset.open(annotated))
    there = score(alone.checkpoint, Dataset.open(annotated), allow_other_version=True)
    assert there["version"] == Dataset.open(annotated).info.content_hash != there["trained_version"] == own
    assert there["noise"] == here["noise"]  # the same rows and labels
    shutil.copytree(alone.run_uri, tmp_path / "alone")
    new_version(Dataset.open(annotated), "other", Change(line="none", columns=lambda block: {}))
    build_graph(Dataset.open(f"{faces}/versions/other"), 8)
    with pytest.raises(SettingError, match="must be the version the checkpoint was trained on"):
        launch.prepare(tiny_run(f"{faces}/versions/other", tmp_path, "alone"))


def test_an_interrupted_job_goes_on_with_its_pieces_and_only_with_its_own(plain: str, faces: str) -> None:
    work, model = _work(plain, "resumed"), _model()
    assert open_pieces(work, model).tolist() == [0, 1, 2, 3]
    annotate_piece(work, 1, Regressor(model, "brightness.pt", work.settings, threads=1, use_gpu=False))
    stored = Path(work.parts_uri, "piece-00000001.npy")
    np.save(stored, np.full_like(np.load(stored), 0.25))  # to see whether it is taken as it is
    with pytest.raises(SettingError, match="must be new for another model"):
        _annotate(work, "resumed", _model(0.5))
    seen: list[int] = []
    _annotate(work, "resumed", model, seen)
    assert seen[0] == 100
    va, expected = Dataset.open(f"{faces}/versions/resumed").va(0, 360), _brightness(faces)
    np.testing.assert_array_equal(va[100:200], np.full((100, 2), 0.25))
    np.testing.assert_allclose(np.delete(va, np.s_[100:200], 0), np.delete(expected, np.s_[100:200], 0), atol=1e-5)


def test_points_out_of_range_stop_the_job_or_are_cut(plain: str, faces: str) -> None:
    work, expected = _work(plain, "loud"), 3 * _brightness(faces)
    with pytest.raises(DataError, match=r"must be in \[-1, 1\], \d+ of the \d+ points so far .* the first is that of "):
        _annotate(work, "loud", _model(3.0), pool=ONE)
    assert not os.path.exists(f"{faces}/versions/loud")
    _annotate(replace(work, clip=True), "loud", _model(3.0), pool=ONE)
    np.testing.assert_allclose(Dataset.open(f"{faces}/versions/loud").va(0, 360), np.clip(expected, -1, 1), atol=1e-5)


def test_points_that_are_nan_are_never_stored(plain: str, faces: str) -> None:
    with pytest.raises(DataError, match=r"100 of the 100 points so far|60 of the \d+ points so far"):
        _annotate(_work(plain, "nan", clip=True), "nan", _model(float("nan")), pool=ONE)
    assert not os.path.exists(f"{faces}/versions/nan")


def test_a_damaged_shard_is_named_with_its_row(plain: str, tmp_path: Path, faces: str) -> None:
    copy = tmp_path / "faces"
    shutil.copytree(faces, copy, ignore=shutil.ignore_patterns("graph-*", "versions"))
    row = Dataset.open(str(copy)).columns(["offset", "size"], rows=1).to_pylist()[0]
    shard = copy / Dataset.open(str(copy)).info.shards[0].name
    data = bytearray(shard.read_bytes())
    data[row["offset"] + row["size"] // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=rf"{shard.name} is damaged"):
        _annotate(_work(str(copy), "broken"), "broken", _model(), pool=ONE)


def test_what_cannot_work_is_refused_before_a_row_is_read(plain: str, annotated: str) -> None:
    work = _work(plain, "refused")
    with pytest.raises(SettingError, match="must be an ONNX file"):
        annotate_by_model(
            replace(work, model_name="x.h5"), "refused", b"?", POOL, standardize=False, report=lambda *_: None
        )
    with pytest.raises(SettingError, match=r"need 2 CPUs and 4 GPUs, got a cluster with .* and 0 GPUs"):
        annotate_by_model(
            work, "refused", _model(), Pool(num_actors=4, cpus=0.5, gpus=1), standardize=False, report=lambda *_: None
        )
    with pytest.raises(SettingError, match="must be new, got one that exists"):
        _annotate(_work(plain, "bright"), "bright", _model())
    assert not os.path.exists(work.parts_uri)


@pytest.mark.parametrize(
    ("missing", "error", "sentence"),
    [
        ([], None, ""),
        ([4, 9], DataError, "2 of 26. have none, the first is "),
        (range(360), DataError, "has no rows"),
    ],
)
def test_a_table_gives_every_training_row_its_points_or_is_refused(
    plain: str, faces: str, tmp_path: Path, missing: list[int], error: type[LdlvaError] | None, sentence: str
) -> None:
    keys = Dataset.open(plain).columns(["key"])["key"].to_pylist()
    rows = Dataset.open(plain).info.num_train
    lines = [f"{keys[i]}.jpg,{i / 400},{-i / 400}\n" for i in range(rows) if i not in missing]
    lines += ["elsewhere.jpg,0,0\n"] if not missing else []
    table, name = tmp_path / "points.csv", f"table-{len(missing)}"
    table.write_text("key,valence,arousal\n" + "".join(lines[::-1]))
    if error:
        with pytest.raises(error, match=sentence):
            annotate_by_table(Dataset.open(plain), name, PointFile(uri=str(table)), standardize=False)
        assert not os.path.exists(f"{faces}/versions/{name}")
        return
    made, unused = annotate_by_table(Dataset.open(plain), name, PointFile(uri=str(table)), standardize=True)
    va = made.va(0, 360)
    assert unused == 1
    assert made.info.source["va_source"] == {"table": "points.csv", "clip": False}
    np.testing.assert_allclose(va[:rows].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.diff(va[:rows, 0]), 1 / 400 / (np.arange(rows) / 400).std(), rtol=1e-3)
    assert np.isnan(va[rows:]).all()  # the table has no rows of holdout and test


def test_the_job_writes_a_version_and_says_one_sentence_where_it_cannot(
    plain: str, scripts: Scripts, tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes(_model())
    command = ["annotate_va", "model", "--model", str(tmp_path / "model.pt")]
    command += ["--dataset", plain, "--name", "by-job", "--input-size", "48"]
    done = scripts.run(*command)
    assert done.code == 0, done.stderr
    assert "annotated 360 of 360 rows" in done.stdout
    assert "valence-arousal: present" in done.stdout
    assert "versions/by-job" in done.stdout
    again = scripts.run(*command)
    assert again.code == 2
    assert "error: a version's name must be new" in again.stderr
