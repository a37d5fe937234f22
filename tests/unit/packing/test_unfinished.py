"""What is predicted or annotated already is taken only for the same images, the same network and the same settings."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.inference.batch import _as_before
from ldlva_dist.inference.description import Description
from ldlva_dist.inference.face_model import Portable
from ldlva_dist.inference.inputs import FolderInputs, ParquetInputs
from ldlva_dist.inference.parts import PredictionWork, finish_predictions, finished_parts, open_parts
from ldlva_dist.runtime import unfinished

MODEL = Portable(
    description=Description(
        name="x",
        backbone="resnet10",
        width=4,
        stem="small",
        channels=1,
        image_size=32,
        feature_width=32,
        class_names=("a", "b"),
        data={},
        training={},
    ),
    weights=b"weights",
)
FACTS = {"weights": "1", "classes": ("a", "b"), "images": {"folder": "here", "files": "2"}}


@pytest.fixture
def images(tmp_path: Path) -> FolderInputs:
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    for name in ("a/0.jpg", "a/1.jpg", "2.jpg"):
        (folder / name).write_bytes(name.encode())
    return FolderInputs(folder=str(folder), paths=pa.array(["2.jpg", "a/0.jpg", "a/1.jpg"], pa.string()))


def _other_bytes(path: Path) -> None:
    """As long as before, and written at the same time, as what is unpacked or copied may say of itself."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    other.rename(path)


@pytest.mark.parametrize(
    "change", [_other_bytes, _replaced, Path.unlink, lambda path: path.write_bytes(b"longer than it")]
)
def test_images_that_were_written_again_under_their_names_are_others(
    change: Callable[[Path], None], images: FolderInputs
) -> None:
    before = images.facts()
    assert images.facts() == before
    change(Path(images.folder) / "a/1.jpg")
    assert images.facts() != before


def test_a_parquet_file_that_was_written_again_is_another(tmp_path: Path) -> None:
    for value in (b"1", b"2"):
        pq.write_table(pa.table({"face": [value] * 3}), tmp_path / f"{value.decode()}.parquet")
    inputs = ParquetInputs(files=(str(tmp_path / "1.parquet"),), image_column=None, key_column=None)
    before = inputs.facts()
    assert replace(inputs).facts() == before
    (tmp_path / "2.parquet").rename(tmp_path / "1.parquet")
    assert replace(inputs).facts() != before


@pytest.mark.parametrize(
    "change", [{"image_size": 48}, {"channels": 3}, {"class_names": ("b", "a")}, {"width": 8}, {"stem": "imagenet"}]
)
def test_a_network_that_is_fed_or_read_otherwise_is_another(change: dict[str, object]) -> None:
    other = replace(MODEL, description=replace(MODEL.description, **change))
    assert (
        unfinished.differing(MODEL.facts(), replace(MODEL, description=replace(MODEL.description, name="y")).facts())
        == []
    )
    assert unfinished.differing(MODEL.facts(), other.facts())
    assert unfinished.differing(MODEL.facts(), replace(MODEL, weights=b"others").facts()) == ["weights"]


def test_an_interrupted_job_goes_on_with_the_same_only(tmp_path: Path) -> None:
    folder = str(tmp_path / "work")
    unfinished.begin_pieces(folder, FACTS, "--output")
    unfinished.begin_pieces(folder, FACTS, "--output")
    with pytest.raises(SettingError, match=r"--output must be new .* job with others \(weights\) has done"):
        unfinished.begin_pieces(folder, FACTS | {"weights": "3"}, "--output")
    with pytest.raises(SettingError, match=r"with others \(more\) has done"):
        unfinished.begin_pieces(folder, FACTS | {"more": 1}, "--output")


def test_pieces_of_which_nobody_knows_what_they_are_made_of_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "piece-00000000.npy").touch()
    with pytest.raises(DataError, match=r"has no about\.json, which says what its pieces are made of"):
        unfinished.begin_pieces(str(tmp_path), FACTS, "--name")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(content=st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 100_000))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_any_file_about_the_pieces_is_another_job_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / "about.json").write_bytes(content)
    with pytest.raises((SettingError, DataError)) as caught:
        unfinished.begin_pieces(str(folder), FACTS, "--output")
    assert "\n" not in str(caught.value)
    assert (folder / "about.json").read_bytes() == content


def _work(images: FolderInputs, tmp_path: Path) -> PredictionWork:
    return PredictionWork(output=str(tmp_path / "out"), inputs=images, batch_size=2, features=False, part_rows=2)


def _finish(work: PredictionWork, facts: dict[str, object], rejected: int = 0) -> None:
    for part in open_parts(work, facts):
        storage.write_bytes(work.part_uri(part), b"answers")
    finish_predictions(work, {**facts, "rows": 3, "rejected": rejected, "parts": 2})


def test_finished_answers_are_given_for_what_they_were_made_of_only(images: FolderInputs, tmp_path: Path) -> None:
    work, facts = _work(images, tmp_path), {"input": images.facts()}
    _finish(work, facts)
    before = finished_parts(work.output)
    assert before is not None
    assert _as_before(work, facts, before, 0.0).rows == 3
    _other_bytes(Path(images.folder) / "2.jpg")
    with pytest.raises(SettingError, match=r"must be new .* predictions of something else \(input\)"):
        _as_before(work, {"input": images.facts()}, before, 0.0)


def test_finished_answers_that_are_gone_or_lack_too_many_images_are_no_answers(
    images: FolderInputs, tmp_path: Path
) -> None:
    work, facts = _work(images, tmp_path), {"input": images.facts()}
    _finish(work, facts, rejected=2)
    before = finished_parts(work.output)
    assert before is not None
    with pytest.raises(DataError, match=r"2 of 3 images cannot be read, more than --max-rejected 0\.5 allows"):
        _as_before(work, facts, before, 0.5)
    assert _as_before(work, facts, before, 1.0).rejected == 2
    Path(work.part_uri(1)).unlink()
    with pytest.raises(DataError, match=r"is finished, but lacks predictions 1"):
        _as_before(work, facts, before, 1.0)


@given(content=st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_any_last_file_of_an_output_is_a_sentence_or_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "last"
    folder.mkdir(exist_ok=True)
    (folder / "predictions.json").write_bytes(content)
    with suppress(DataError):
        assert isinstance(finished_parts(str(folder)), dict)
