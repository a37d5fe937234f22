"""Batch prediction gives what evaluation gives, from any input; what is interrupted goes on; bad images are listed."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldlva_dist.analysis.scoring import predict_split
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.dataset.shards import read_rows
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.inference.actors import Actors
from ldlva_dist.inference.batch import Predicted, predict_images
from ldlva_dist.inference.inputs import DatasetInputs, FolderInputs, Inputs, ParquetInputs
from ldlva_dist.inference.parts import PredictionWork, count_rejected, predict_part
from ldlva_dist.inference.trained import read_model
from ldlva_dist.packing.sources.listing import list_images
from testing.clusters.job_scripts import Scripts
from testing.tiny_runs import untrained_run

pytestmark = pytest.mark.usefixtures("cluster")
TWO = Actors(num_actors=2, cpus_per_actor=0.5)
ROWS = 60  # of the test split


@pytest.fixture(scope="module")
def run(faces: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained_run(faces, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def expected(run: str, faces: str) -> np.ndarray:
    """[60, 7] what evaluation says of the test split."""
    checkpoint = Checkpoint.newest(run)
    assert checkpoint is not None
    return predict_split(checkpoint, Dataset.open(faces), split="test", num_tasks=1)


@pytest.fixture(scope="module")
def files(faces: str) -> dict[str, bytes]:
    """The test split's images by key."""
    info = Dataset.open(faces).info
    columns = ["key", "shard", "offset", "size", "checksum"]
    rows = Dataset.open(faces).columns(columns, first_id=info.splits["test"].first_id).to_pylist()
    return {
        row["key"]: bytes(
            read_rows(f"{faces}/{info.shards[row['shard']].name}", [row["offset"]], [row["size"]], [row["checksum"]])[0]
        )
        for row in rows
    }


@pytest.fixture(scope="module")
def folder(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for place, (key, data) in enumerate(files.items()):
        path = root / ("a" if place < 30 else "b") / f"{place:03d}-{key}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return root


def images_in(folder: Path) -> FolderInputs:
    return FolderInputs(folder=str(folder), paths=list_images.__wrapped__(str(folder)).paths)


def work_of(inputs: Inputs, output: Path, *, features: bool = False) -> PredictionWork:
    return PredictionWork(output=str(output), inputs=inputs, batch_size=8, features=features, part_rows=16)


def probabilities(output: Path) -> np.ndarray:
    table = pq.read_table(output / "predictions")
    return np.stack([table[f"p_{name}"].to_numpy() for name in read_classes(output)], axis=1)


def read_classes(output: Path) -> list[str]:
    return json.loads((output / "predictions.json").read_text())["class_names"]


def test_the_job_gives_what_evaluation_gives(
    run: str, faces: str, expected: np.ndarray, scripts: Scripts, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = ["predict", "dataset", "--model", run, "--dataset", faces, "--output", str(output), "--split", "test"]
    command += ["--features", "--num-actors", "1", "--cpus-per-actor", "0.5"]
    done = scripts.run(*command)
    assert done.code == 0, done.stderr
    assert f"predicted {ROWS} of {ROWS} images; rejected: 0" in done.stdout
    table = pq.read_table(output / "predictions")
    np.testing.assert_allclose(probabilities(output), expected, atol=1e-6)
    rows = Dataset.open(faces).columns(["key", "id"], first_id=Dataset.open(faces).info.splits["test"].first_id)
    assert table.select(["key", "id"]).equals(rows)
    classes = np.array(read_classes(output))
    assert table["class"].to_pylist() == classes[expected.argmax(axis=1)].tolist()
    np.testing.assert_allclose(
        table["entropy"].to_numpy(), -(expected * np.log(expected)).sum(axis=1), rtol=1e-4, atol=1e-6
    )
    features = np.stack(table["feature"].to_numpy(zero_copy_only=False))
    model = read_model(run)
    assert features.shape == (ROWS, model.description.feature_width)
    assert sorted(path.name for path in output.iterdir()) == ["predictions", "predictions.json", "rejected.parquet"]

    again = scripts.run(*command)  # finished: nothing to do
    assert again.code == 0
    other = scripts.run(*command[:-5], "--num-actors", "1")  # without features
    assert other.code == 2
    assert "error: --output must be new for another model, other images or other settings" in other.stderr


def test_folder_and_parquet_give_the_same(
    run: str, files: dict[str, bytes], folder: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    model, images = read_model(run), list(files.values())
    assert predict_images(model, work_of(images_in(folder), tmp_path / "f"), TWO, max_rejected=0) == Predicted(
        rows=ROWS, rejected=0, parts=4
    )
    np.testing.assert_allclose(probabilities(tmp_path / "f"), expected, atol=1e-6)
    keys = pq.read_table(tmp_path / "f" / "predictions")["key"].to_pylist()
    assert keys == sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))

    for name, part in (("1", slice(0, 25)), ("2", slice(25, 60))):
        column = pa.array([{"bytes": data, "path": None} for data in images[part]])
        table = pa.table({"face": column, "name": list(files)[part]})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=10)
    sources = tuple(str(tmp_path / f"{name}.parquet") for name in "12")
    inputs = ParquetInputs(files=sources, image_column=None, key_column="name")
    as_many_as_fit = Actors(cpus_per_actor=2.0)  # two on four CPUs
    predict_images(model, work_of(inputs, tmp_path / "p"), as_many_as_fit, max_rejected=0)
    np.testing.assert_allclose(probabilities(tmp_path / "p"), expected, atol=1e-6)
    assert pq.read_table(tmp_path / "p" / "predictions")["key"].to_pylist() == list(files)
    unnamed = replace(inputs, key_column=None)
    assert [key.as_py() for block in unnamed.blocks(23, 27) for key in block.names["key"]] == [
        *("1.parquet:23", "1.parquet:24", "2.parquet:0", "2.parquet:1"),
    ]
    with pytest.raises(SettingError, match="--key-column must be a column of"):
        replace(inputs, key_column="nobody").facts()


class Interrupted(Exception):
    pass


def test_an_interrupted_job_computes_no_part_twice_and_ends_as_an_uninterrupted_one(
    run: str, folder: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    model, output = read_model(run), tmp_path / "out"
    work = work_of(images_in(folder), output)

    def stop(done: int, total: int) -> None:
        if done:
            raise Interrupted

    with pytest.raises(Interrupted):
        predict_images(model, work, Actors(num_actors=1, cpus_per_actor=0.5), max_rejected=0, progress=stop)
    parts = output / "predictions"
    before = {path.name: path.stat().st_ino for path in parts.iterdir()}
    assert before
    (parts / ".part-00003.parquet.half").write_bytes(b"PAR1")  # as if a writer had been killed
    assert not (output / "predictions.json").exists()
    if len(before) == 4:  # the actor was quicker than the interrupt
        (parts / "part-00002.parquet").unlink()
        del before["part-00002.parquet"]

    with pytest.raises(SettingError, match="must be new for another model, other images or other settings"):
        predict_images(model, replace(work, features=True), TWO, max_rejected=0)
    smaller = replace(model, description=replace(model.description, image_size=32))
    with pytest.raises(SettingError, match=r"interrupted job with others \(image_size, preprocessing\) has done"):
        predict_images(smaller, work, TWO, max_rejected=0)
    seen: list[int] = []
    predict_images(model, work, TWO, max_rejected=0, progress=lambda done, total: seen.append(done))
    # A part that was under way at the interrupt may have been finished since.
    assert seen[0] >= sum(work.rows(int(name[5:10])) for name in before)
    assert seen[-1] == ROWS
    assert {name: (parts / name).stat().st_ino for name in before} == before
    np.testing.assert_allclose(probabilities(output), expected, atol=1e-6)
    assert not (output / ".work").exists()


def test_bad_images_are_listed_and_too_many_end_the_job_with_3(
    run: str, folder: Path, expected: np.ndarray, scripts: Scripts, tmp_path: Path
) -> None:
    bad = tmp_path / "images"
    bad.mkdir()
    names = sorted(folder.rglob("*.jpg"))
    for path in names:
        os.link(path, bad / path.name)
    (bad / names[5].name).unlink()
    (bad / names[5].name).write_bytes(names[5].read_bytes()[:200])  # cut short
    (bad / names[40].name).unlink()
    (bad / names[40].name).write_bytes(b"")
    (bad / names[50].name).unlink()
    (bad / names[50].name).write_bytes(encode_image(np.zeros((1, 20_000, 3), np.uint8)))
    (bad / "notes.txt").write_text("no image, no row")
    command = ["predict", "folder", "--model", run, "--images", str(bad), "--output", str(tmp_path / "out")]
    command += ["--num-actors", "1", "--cpus-per-actor", "0.5"]
    done = scripts.run(*command)
    assert done.code == 3
    assert "error: 3 of 60 images cannot be read, more than --max-rejected 0.01 allows" in done.stderr
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [row["key"] for row in rejected] == [names[n].name for n in (5, 40, 50)]
    assert "cannot be decoded" in rejected[0]["reason"]
    assert "missing" in rejected[1]["reason"]
    assert "10000 a side: 20000 x 1" in rejected[2]["reason"]
    done = scripts.run(*command, "--max-rejected", "0.1")  # goes on with what is done
    assert done.code == 0, done.stderr
    assert "predicted 57 of 60 images; rejected: 3" in done.stdout
    np.testing.assert_allclose(probabilities(tmp_path / "out"), np.delete(expected, [5, 40, 50], 0), atol=1e-6)
    assert pq.read_table(tmp_path / "out" / "rejected.parquet").num_rows == 3


def test_a_damaged_row_of_a_shard_is_one_bad_image(run: str, faces: str, tmp_path: Path) -> None:
    dataset = Dataset.open(faces)
    for path in Path(faces).iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    first = dataset.info.splits["test"].first_id
    row = dataset.columns(["key", "shard", "offset"], first_id=first + 7).to_pylist()[0]
    shard = tmp_path / dataset.info.shards[row["shard"]].name
    data = bytearray(shard.read_bytes())
    data[row["offset"] + 100] ^= 1
    shard.write_bytes(data)
    inputs = DatasetInputs(dataset=Dataset(str(tmp_path), dataset.info), split="test")
    work = work_of(inputs, tmp_path / "out")
    assert predict_part(work, read_model(run).build(), 0) == 1
    listed = pq.read_table(work.rejected_uri(0)).to_pylist()
    assert [entry["key"] for entry in listed] == [row["key"]]
    assert "does not have the checksum of the manifest" in listed[0]["reason"]
    assert pq.read_table(work.part_uri(0)).num_rows == 15
    assert count_rejected(work, todo=[1, 2, 3]) == 1
    assert count_rejected(work, todo=[0, 1, 2, 3]) == 0  # a part that was interrupted after its list


def test_images_that_change_while_they_are_predicted_or_later_get_no_old_answers(
    run: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "a", tmp_path / "images")
    image = next((tmp_path / "images").iterdir())
    work = replace(work_of(images_in(tmp_path / "images"), tmp_path / "out"), part_rows=30)

    def change(done: int, total: int) -> None:
        if done:
            image.write_bytes(image.read_bytes() + b" ")

    with pytest.raises(DataError, match=r"were changed while they were predicted: .*out has answers for old ones"):
        predict_images(read_model(run), work, Actors(num_actors=1, cpus_per_actor=0.5), max_rejected=0, progress=change)
    with pytest.raises(SettingError, match=r"must be new .* interrupted job with others \(input\) has done"):
        predict_images(read_model(run), work, TWO, max_rejected=0)
    assert not (tmp_path / "out" / "predictions.json").exists()


@pytest.mark.parametrize("name", ["notes.txt", "notes.parquet"])
def test_a_file_that_is_no_parquet_ends_the_job_with_3(run: str, name: str, scripts: Scripts, tmp_path: Path) -> None:
    (tmp_path / name).write_text("no parquet")
    command = ["predict", "parquet", "--model", run, "--parquet", str(tmp_path / name)]
    done = scripts.run(*command, "--output", str(tmp_path / "out"))
    assert done.code == 3
    assert f"{name} is not a parquet file" in done.stderr


def test_what_cannot_be_predicted_is_a_sentence(run: str, folder: Path, tmp_path: Path) -> None:
    empty = FolderInputs(folder=str(tmp_path), paths=pa.array([], pa.string()))
    with pytest.raises(DataError, match="there are no images to predict"):
        predict_images(read_model(run), work_of(empty, tmp_path / "out"), TWO, max_rejected=0)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(SettingError, match="--output must not exist"):
        predict_images(read_model(run), work_of(images_in(folder), tmp_path / "taken"), TWO, max_rejected=0)
    with pytest.raises(
        SettingError, match=r"--num-actors, .* need 2 CPUs and 2 GPUs, got a cluster with .* and 0 GPUs"
    ):
        predict_images(
            read_model(run),
            work_of(images_in(folder), tmp_path / "out"),
            Actors(num_actors=2, gpus_per_actor=1.0),
            max_rejected=0,
        )
