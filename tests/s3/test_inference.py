"""A network on a store predicts images on a store, onto a store, as on a disk; an interrupted output goes on there."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.inference.export import export
from ldlva_dist.inference.face_model import load_exported
from ldlva_dist.inference.inputs import DatasetInputs, FolderInputs, Inputs, ParquetInputs
from ldlva_dist.inference.parts import PredictionWork, finish_predictions, finished_parts, open_parts, predict_part
from ldlva_dist.inference.trained import read_model
from ldlva_dist.packing.sources.listing import list_images
from ldlva_dist.packing.sources.readers.row_groups import parquet_files
from testing.s3_store import Swift
from testing.synthetic_run import synthetic_run
from testing.tiny_runs import untrained_run

STORE = "s3://faces/inference"
ROWS = 40


@pytest.fixture(scope="module")
def stored(swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Inputs]:
    """The same images as a data set, a folder and parquet files; the network beside them."""
    root = tmp_path_factory.mktemp("set")
    made = synthetic_run(root, rows=ROWS, pool=ROWS, k=4, pixels=56)
    for path in Path(made.dataset.uri).iterdir():
        storage.upload(str(path), f"{STORE}/set/{path.name}")
    images = [bytes(image) for block in dataset().blocks(0, ROWS) for image in block.images]  # type: ignore[arg-type]
    for place, image in enumerate(images):
        storage.write_bytes(f"{STORE}/images/{place % 3}/{place:02d}.jpg", image)
    for place, part in enumerate((images[:25], images[25:])):
        sink = io.BytesIO()
        pq.write_table(pa.table({"image": part}), sink, row_group_size=8)
        storage.write_bytes(f"{STORE}/tables/{place}.parquet", sink.getvalue())
    export(read_model(untrained_run(f"{STORE}/set", f"{STORE}/runs")), f"{STORE}/away", [], [])
    return {
        "dataset": dataset(),
        "folder": FolderInputs(folder=f"{STORE}/images", paths=list_images(f"{STORE}/images").paths),
        "parquet": ParquetInputs(files=parquet_files(f"{STORE}/tables"), image_column=None, key_column=None),
    }


def dataset() -> DatasetInputs:
    return DatasetInputs(dataset=Dataset.open(f"{STORE}/set"), split="train")


@pytest.mark.parametrize("kind", ["dataset", "folder", "parquet"])
def test_predictions_on_a_store_are_those_of_the_network(stored: dict[str, Inputs], kind: str) -> None:
    model, inputs = load_exported(f"{STORE}/away"), stored[kind]
    work = PredictionWork(output=f"{STORE}/out-{kind}", inputs=inputs, batch_size=8, features=False, part_rows=16)
    facts = inputs.facts()
    assert open_parts(work, facts) == [0, 1, 2]
    assert predict_part(work, model, 1) == 0
    assert open_parts(work, facts) == [0, 2]  # as after an interruption
    for part in (0, 2):
        predict_part(work, model, part)
    finish_predictions(work, facts)
    assert finished_parts(work.output) is not None
    assert storage.list_folder(work.output) == ["predictions", "predictions.json", "rejected.parquet"]
    images = [model.prepare(image) for block in inputs.blocks(0, ROWS) for image in block.images]  # type: ignore[arg-type]
    expected = model(np.stack(images)).probs_nC
    names = storage.list_folder(f"{work.output}/predictions")
    tables = [pq.read_table(io.BytesIO(storage.read_bytes(f"{work.output}/predictions/{name}"))) for name in names]
    table = pa.concat_tables(tables)
    assert table.num_rows == ROWS
    found = np.stack([table[f"p_{name}"].to_numpy() for name in model.description.class_names], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
