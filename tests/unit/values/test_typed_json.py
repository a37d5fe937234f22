"""dataset.json and graph.json of any shape: every field is what it must be, or a DataError names it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import read_info
from ldlva_dist.errors import DataError
from ldlva_dist.index.graph import build_graph, read_graph_info
from testing.toy_dataset import toy_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = toy_dataset(tmp_path_factory.mktemp("set"))
    build_graph(Dataset.open(uri), 4)
    return uri


@pytest.fixture(scope="module")
def raw(dataset: str) -> dict[str, Any]:
    return json.loads(Path(dataset, "dataset.json").read_text())


def _changed(raw: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(raw))
    *folders, last = path.split("/")
    place = copy
    for name in folders:
        place = place[int(name) if isinstance(place, list) else name]
    place[last] = value
    return copy


def _read(folder: Path, value: Any) -> Any:
    folder.joinpath("dataset.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return Dataset.open(str(folder)).info


FIELDS = [
    ("splits", [], r"splits must be an object, got a list of 0"),
    ("splits", "train", r"splits must be an object, got 'train'"),
    ("splits", {}, r"splits must be train, holdout and test, got an object of 0"),
    ("splits/test", None, r"splits\.test must be an object, got None"),
    ("splits/val", {"first_id": 0, "rows": 0}, r"splits must be train, holdout and test"),
    ("splits/train/rows", -1, r"splits\.train\.rows must be a number from 0 to 2\^48, got -1"),
    ("splits/train/rows", True, r"splits\.train\.rows must be a whole number, got True"),
    ("splits/train/rows", 60.0, r"splits\.train\.rows must be a whole number, got 60\.0"),
    ("splits/train/rows", 1 << 70, r"must be a number from 0 to 2\^48, got a number of 20 digits or more"),
    ("splits/train/more", 1, r"does not know its field 'splits\.train\.more'"),
    ("class_counts", [], r"class_counts must be an object"),
    ("class_counts/train", 5, r"class_counts\.train must be a list, got 5"),
    ("class_counts/train", [-1, 1, 1, 1], r"class_counts\.train\[0\] must be a number from 0"),
    ("class_names", "Neutral", r"class_names must be a list, got 'Neutral'"),
    ("class_names", [], r"class_names must be different names, one at least"),
    ("class_names", ["a", "b", "b", "c"], r"class_names must be different names"),
    ("class_names", ["a", 1, "b", "c"], r"class_names\[1\] must be a text, got 1"),
    ("class_names", ["a", "", "b", "c"], r"class_names\[1\] must be a text that is not empty"),
    ("class_names", ["a", "\0", "b", "c"], r"class_names\[1\] must be a text"),
    ("class_names", ["a", "\ud800", "b", "c"], r"class_names\[1\] must be a text, got '\\ud800'"),
    ("va_transform", [], r"va_transform must be an object, got a list of 0"),
    ("va_transform", {}, r"va_transform must be a mean and a std > 0"),
    ("va_transform/std", [0.0, 1.0], r"va_transform must be a mean and a std > 0"),
    ("va_transform/std", [1.0], r"va_transform\.std must be a list of 2, got a list of 1"),
    ("va_transform/mean", [float("nan"), 0], r"va_transform\.mean\[0\] must be a number, got nan"),
    ("va_transform/mean", ["0", 0], r"va_transform\.mean\[0\] must be a number, got '0'"),
    ("shards/0/name", "a/../../b", r"shards\[0\]\.name must be the name of a file beside it"),
    ("shards/0/name", "..", r"shards\[0\]\.name must be the name of a file"),
    ("shards/0/name", "/etc/passwd", r"shards\[0\]\.name must be the name of a file"),
    ("shards/0/name", "a\\b", r"shards\[0\]\.name must be the name of a file"),
    ("shards/0/name", "a\0b", r"shards\[0\]\.name must be a text"),
    ("shards/0/name", 7, r"shards\[0\]\.name must be a text, got 7"),
    ("shards/0/name", "x" * 300, r"shards\[0\]\.name must be the name of a file .* at most 255 bytes"),
    ("shards/0/name", "test-000000.tar", r"shards must be files of different names"),
    ("shards/0/split", "val", r"shards\[0\]\.split must be train, holdout or test, got 'val'"),
    ("shards/0/rows", 0, r"shards\[0\]\.rows must be > 0"),
    ("shards", {}, r"shards must be a list, got an object of 0"),
    ("has_valence_arousal", 1, r"has_valence_arousal must be true or false, got 1"),
    ("content_hash", "", r"content_hash must be a text that is not empty"),
    ("num_rejected", -1, r"num_rejected must be a number from 0"),
    ("flip_share", 1.5, r"flip_share must be in \[0, 1\]"),
    ("format_version", True, r"has format_version True"),
    ("format_version", [1], r"has format_version a list of 1"),
    ("unknown", 1, r"does not know its field 'unknown'"),
    ("base", 5, r"base must be a text, got 5"),
    ("source", [], r"source must be an object"),
]


@pytest.mark.parametrize(("path", "value", "said"), FIELDS)
def test_a_field_that_is_not_what_it_must_be_is_named(
    raw: dict[str, Any], tmp_path: Path, path: str, value: Any, said: str
) -> None:
    if path.startswith("shards/0"):
        copy = json.loads(json.dumps(raw))
        copy["shards"][0][path.rpartition("/")[2]] = value
    else:
        copy = _changed(raw, path, value)
    with pytest.raises(DataError, match=said):
        _read(tmp_path, copy)


def test_a_field_that_is_missing_is_named_unless_it_has_a_default(raw: dict[str, Any], tmp_path: Path) -> None:
    for name in raw:
        copy = {other: value for other, value in raw.items() if other != name}
        if name in ("name", "class_names", "splits", "shards", "has_valence_arousal", "content_hash", "class_counts"):
            with pytest.raises(DataError, match=f"it has no field '{name}'"):
                _read(tmp_path, copy)
        elif name != "format_version":
            _read(tmp_path, copy)


DEEP = 100_000


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '"x"', "\ufeff{", "[" * DEEP + "]" * DEEP, '{"format_version": ' + "9" * 5000 + "}"],
)
def test_what_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.json"):
        _read(tmp_path, text)


def test_a_source_may_hold_anything_but_the_bottomless(raw: dict[str, Any], tmp_path: Path) -> None:
    assert _read(tmp_path, {**raw, "source": {"a": [1, None, {"b": 0.5}]}}).source == {"a": [1, None, {"b": 0.5}]}
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    with pytest.raises(DataError, match=r"source\.a must be at most 50 levels deep"):
        _read(tmp_path, {**raw, "source": {"a": deep}})


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["class_names", "splits", "shards", "va_transform", "class_counts", "name", "flip_share", "source", "base"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(name=st.sampled_from([*NAMES, "format_version", "num_rejected", "has_valence_arousal"]), value=SHAPES)
def test_any_value_of_any_field_is_taken_as_it_is_or_refused(
    raw: dict[str, Any], dataset: str, name: str, value: Any
) -> None:
    folder = Path(dataset) / "fuzz"
    folder.mkdir(exist_ok=True)
    try:
        info = _read(folder, {**raw, name: value})
    except DataError:
        return
    found = getattr(info, name)
    expected = tuple(value) if isinstance(value, list) and name != "source" else value
    assert found == expected or (found != found and value != value)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(place=st.integers(0, 10_000), put=st.binary(max_size=4))
def test_changed_bytes_of_the_json_files_never_end_in_another_error(dataset: str, place: int, put: bytes) -> None:
    for name, read in (("dataset.json", read_info), ("graph.json", read_graph_info)):
        folder = Path(dataset) / "bytes" / "graph-K4"
        folder.mkdir(parents=True, exist_ok=True)
        source = Path(dataset, "graph-K4" if name == "graph.json" else "", name).read_bytes()
        at = place % len(source)
        folder.joinpath(name).write_bytes(source[:at] + put + source[at + len(put) :])
        try:
            read(str(folder))
        except DataError as error:
            assert name in str(error)  # noqa: PT017


ODD = {
    "num_samples": [1, 1 << 31, "60", None],
    "num_neighbors": [0, -1, 5, 60, True],
    "part_rows": [0, 0.5],
    "imported": [1],
    "content_hash": [None, ""],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_a_graph_json_that_is_odd_is_named(dataset: str, tmp_path: Path, name: str, value: Any) -> None:
    folder = tmp_path / "graph-K4"
    folder.mkdir()
    raw = json.loads(Path(dataset, "graph-K4", "graph.json").read_text())
    folder.joinpath("graph.json").write_text(json.dumps({**raw, name: value}))
    with pytest.raises(DataError, match=rf"graph\.json is damaged: {name}"):
        read_graph_info(str(folder))
