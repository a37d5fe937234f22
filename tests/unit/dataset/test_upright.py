"""Photographs that a data set holds as a camera stored them: every room that reads images gives them upright, once."""

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from isal.isal_zlib import crc32
from numpy.typing import NDArray
from PIL import Image

from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import decode
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.inference.description import Description
from ldlva_dist.inference.export import real_images
from ldlva_dist.inference.face_model import FaceModel
from ldlva_dist.models.backbone import build_backbone
from ldlva_dist.models.classifier import Classifier
from ldlva_dist.packing.annotate import pieces
from ldlva_dist.packing.annotate.settings import RegressorSettings
from ldlva_dist.reporting.report.pictures import FACE, Pictures
from ldlva_dist.stream.random_access import RandomAccess
from ldlva_dist.stream.superstep import ImageSettings, Window, finish_superstep
from ldlva_dist.training.evaluate import SplitReader
from ldlva_dist.values.settings import Resize
from testing.strong_edges import as_camera_jpeg, strong_edges
from testing.synthetic_run import synthetic_run
from tests.unit.dataset.test_image_files import STORED, photograph

SIDE, ROWS = 48, len(STORED)
TAKEN = Preparation(size=SIDE, channels=3, resize="antialias")
LOOK = np.full((SIDE, SIDE, 3), 20, np.uint8)
LOOK[:24] = 220
LOOK[:24, 24:] = (220, 20, 20)
"""White, red, and black below."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eight photographs of one look, each held in another way."""
    return _dataset(tmp_path_factory.mktemp("set"), [photograph(orientation, pixels=LOOK) for orientation in STORED])


def _dataset(folder: Path, files: list[bytes]) -> Dataset:
    run = synthetic_run(folder, rows=ROWS, pool=ROWS, k=2, pixels=16)
    Path(run.dataset.uri, run.dataset.info.shards[0].name).write_bytes(b"".join(files))
    sizes = np.array([len(data) for data in files])
    places = {"offset": np.cumsum(sizes) - sizes, "size": sizes, "checksum": np.array([crc32(data) for data in files])}
    names = ["id", "key", "shard", "label", "valence", "arousal", "split"]
    table = run.dataset.columns(names, first_id=0, rows=ROWS)
    for name, values in places.items():
        table = table.append_column(name, pa.array(values))
    manifest.write_manifest(run.dataset.uri, table)
    return run.dataset


def _stream(dataset: Dataset, taken: Preparation = TAKEN) -> Iterable[NDArray[np.uint8]]:
    stored = dataset.images(range(ROWS))
    columns: dict[str, NDArray[Any]] = {name: np.arange(ROWS) for name in ("id", "label", "visit")}
    columns["va"] = np.zeros((ROWS, 2), np.float32)
    data = stored.read_all()
    window = Window(data=data, columns=columns, shard_uris=[], lane_rows=ROWS)
    images = ImageSettings(**asdict(taken), flip=False, pad=0, erase_probability=0.0)
    return finish_superstep(window, np.arange(ROWS), images, seed=0)["image"]


def _neighbors(dataset: Dataset, taken: Preparation = TAKEN) -> Iterable[NDArray[np.uint8]]:
    class Rows:
        shard_uris, shard_rows = (dataset.shard_uri(0),), (ROWS,)

        def rows(self, ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
            names = ["offset", "size", "checksum"]
            table = dataset.columns(names, first_id=0, rows=ROWS)
            return {name: table[name].to_numpy()[ids] for name in names}

    def bad(row: object) -> None:
        raise AssertionError(row)

    return RandomAccess(Rows(), preparation=taken, cache_mb=1, on_bad=bad).images(np.arange(ROWS))[0]


def _evaluation(dataset: Dataset, taken: Preparation = TAKEN) -> Iterable[NDArray[np.uint8]]:
    return next(SplitReader(dataset=dataset, split="train", preparation=taken).batches(0, ROWS))


def _annotation(dataset: Dataset, taken: Preparation = TAKEN) -> Iterable[NDArray[np.uint8]]:
    settings = RegressorSettings(input_size=SIDE, resize=taken.resize)
    work = pieces.AnnotationWork(
        dataset=dataset, parts_uri="", model_name="", settings=settings, batch_size=ROWS, clip=False
    )
    return pieces._read(work, dataset.images(range(ROWS)))


def _report(dataset: Dataset) -> Iterable[NDArray[np.uint8]]:
    pictures = Pictures(dataset.images(np.arange(ROWS)).read, 10**6)
    pictures.add(range(ROWS), FACE)
    shown = (Image.open(io.BytesIO(base64.b64decode(line))) for line in pictures.lines)
    return [np.asarray(picture.resize((SIDE, SIDE))) for picture in shown]


ROOMS: dict[str, Callable[[Dataset], Iterable[NDArray[np.uint8]]]] = {
    "stream": _stream,
    "exact neighbours": _neighbors,
    "evaluation": _evaluation,
    "annotation": _annotation,
    "report": _report,
    "contact sheet": lambda dataset: [decode(dataset.images(np.arange(ROWS)).read(row), 3) for row in range(ROWS)],
    "graphs are checked": lambda dataset: real_images(dataset, 3),
}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_gives_upright_images(room: str, dataset: Dataset) -> None:
    images = list(ROOMS[room](dataset))
    assert len(images) == ROWS
    for image in images:
        np.testing.assert_allclose(image[6:-6:6, 6:-6:6], LOOK[6:-6:6, 6:-6:6], atol=40)
        np.testing.assert_allclose(image[[8, 8, 40], [8, 40, 24]], [[220] * 3, [220, 20, 20], [20] * 3], atol=24)


ORIGINALS = [(48, 48), (47, 90), (96, 96), (131, 203), (400, 390), (480, 640)]


@pytest.mark.parametrize("resize", ["antialias", "reference"])
def test_every_room_gives_the_network_the_same_pixels(resize: Resize, tmp_path: Path) -> None:
    files = [photograph(turn, pixels=strong_edges(*sides)) for turn, sides in zip(STORED, ORIGINALS, strict=False)]
    files += [photograph(6, "png", strong_edges(131, 203)), as_camera_jpeg(strong_edges(301, 225))]
    made, taken = _dataset(tmp_path, files), Preparation(size=SIDE, channels=3, resize=resize)
    facts = {"backbone": "resnet10", "width": 4, "stem": "small", "channels": 3, "image_size": SIDE, "resize": resize}
    facts |= {"name": "x", "feature_width": 32, "class_names": ("a", "b"), "data": {}, "training": {}}
    network = Classifier(build_backbone("resnet10", width=4, channels=3, stem="small"), 2)
    model = FaceModel(Description(**facts), network)
    expected = [model.prepare(data) for data in files]
    for room in (_stream, _neighbors, _evaluation, _annotation):
        for image, right in zip(room(made, taken), expected, strict=True):
            np.testing.assert_array_equal(image, right)
