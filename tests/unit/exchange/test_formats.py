"""What goes out in a tool's format comes back the same; what others made of it is understood or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.errors import DataError
from ldlva_dist.exchange import common_form
from ldlva_dist.exchange.clean_lab import write_arrays
from ldlva_dist.exchange.common_form import LabelIssue, as_issues
from ldlva_dist.exchange.formats import FORMATS, FormatName, read_marked, recognise
from testing.random_issues import listed, random_issues

NAMES: tuple[FormatName, ...] = tuple(FORMATS)


@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_rows_come_back_as_they_went(name: FormatName, tmp_path: Path) -> None:
    rows = random_issues(1000)
    uri = FORMATS[name].write(str(tmp_path), listed(rows))[0]
    assert recognise(uri) == name
    assert as_issues(read_marked(uri)) == rows
    assert read_marked(uri).schema == common_form.SCHEMA


@pytest.mark.parametrize("name", NAMES)
def test_nothing_comes_back_as_nothing(name: FormatName, tmp_path: Path) -> None:
    assert as_issues(read_marked(FORMATS[name].write(str(tmp_path), listed([]))[0])) == []


def saved(folder: Path, found: Any) -> str:
    path = folder / "found"
    path.write_bytes(found if isinstance(found, bytes) else json.dumps(found).encode())
    return str(path)


def choices(*names: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": "decision", "to_name": "image", "value": {"choices": list(names)}}


def test_label_studios_export_has_a_row_for_each_annotator(tmp_path: Path) -> None:
    data = {"key": "k1", "image": "x", "given": "calm", "proposed": "glad", "suspicion": 0.25}
    annotations = [
        {"completed_by": 7, "was_cancelled": False, "result": [choices("glad")]},
        {"completed_by": {"id": 8, "email": "b@c.d"}, "result": [choices("sad")]},
        {"completed_by": 9, "was_cancelled": True, "result": [choices("calm")]},
        {"completed_by": 10, "result": []},
    ]
    tasks = [
        {"id": 1, "data": data, "annotations": annotations, "predictions": []},
        {"id": 2, "data": {"key": "k2"}, "predictions": [{"score": 0.25, "result": [choices("glad")]}]},
    ]
    assert as_issues(read_marked(saved(tmp_path, tasks))) == [
        LabelIssue("k1", "calm", "glad", 0.25, "glad", "annotator 7"),
        LabelIssue("k1", "calm", "glad", 0.25, "sad", "b@c.d"),
        LabelIssue("k2", None, "glad", 0.75, None, None),
    ]


def test_label_studios_short_export_is_read_too(tmp_path: Path) -> None:
    fields = {"key": "k1", "image": "x", "given": "calm", "proposed": "glad", "suspicion": 0.25, "id": 3}
    tasks = [
        {**fields, "decision": "sad", "annotator": 1, "annotation_id": 5},
        {**fields, "decision": {"choices": ["glad"]}, "annotator": 2, "annotation_id": 6},
        {**fields, "key": "k2", "annotator": 2},
    ]
    assert as_issues(read_marked(saved(tmp_path, tasks))) == [
        LabelIssue("k1", "calm", "glad", 0.25, "sad", "annotator 1"),
        LabelIssue("k1", "calm", "glad", 0.25, "glad", "annotator 2"),
        LabelIssue("k2", "calm", "glad", 0.25, None, None),
    ]


def test_a_label_changed_in_the_tool_is_a_decision_and_one_left_alone_is_none(tmp_path: Path) -> None:
    facts = {"given": "calm", "proposed": "glad", "suspicion": 0.5}
    labels = {
        "left": {"label": 0, "attributes": facts},
        "changed": {"label": 1, "confidence": 0.1, "attributes": facts},
        "back": {"label": 0, "attributes": {**facts, "decision": "glad"}},
        "data/bare": 2,
        "named": "sad",
        "none": None,
    }
    rows = as_issues(read_marked(saved(tmp_path, {"classes": ["calm", "glad", "sad"], "labels": labels})))
    assert {row.key: row.decision for row in rows} == {
        "left": None,
        "changed": "glad",
        "back": "calm",
        "bare": "sad",
        "named": "sad",
        "none": None,
    }
    assert rows[0] == LabelIssue("left", "calm", "glad", 0.5)


def test_cvats_tags_are_decisions_where_they_were_changed(tmp_path: Path) -> None:
    fact = '<attribute name="given">calm</attribute><attribute name="suspicion">0.5</attribute>'
    xml = f"""<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>
    <meta><task><labels><label><name>calm</name><attributes><attribute><name>given</name></attribute></attributes></label></labels></task></meta>
    <image id="0" name="a/left.jpg" width="1" height="1"><tag label="calm">{fact}</tag></image>
    <image id="1" name="changed.png"><tag label="sad" source="manual">{fact}</tag></image>
    <image id="2" name="untagged.jpg"></image>
    <image id="3" name="two.jpg"><tag label="calm"/><tag label="sad"/></image></annotations>"""
    assert as_issues(read_marked(saved(tmp_path, xml.encode()))) == [
        LabelIssue("left", "calm", None, 0.5),
        LabelIssue("changed", "calm", None, 0.5, "sad"),
        LabelIssue("untagged"),
        LabelIssue("two", decision="calm"),
        LabelIssue("two", decision="sad"),
    ]


def test_the_page_and_cleanlab_are_read_with_their_own_columns(tmp_path: Path) -> None:
    page = b"id,key,given_label,proposed_label,uncertainty\n3,k3,calm,'=glad,0.5\n"
    assert as_issues(read_marked(saved(tmp_path, page))) == [LabelIssue("k3", "calm", decision="=glad")]
    theirs = b"key,is_label_issue,label_score,given_label,predicted_label\nk1,True,0.25,calm,glad\n"
    assert as_issues(read_marked(saved(tmp_path, theirs))) == [LabelIssue("k1", "calm", "glad", 0.75)]


def test_the_arrays_for_cleanlab_hold_no_objects(tmp_path: Path) -> None:
    probs, labels = np.full((3, 2), 0.5, np.float32), np.array([0, 1, 1])
    uris = write_arrays(str(tmp_path), probs, labels, pa.array(["a", "bé", "c"]))
    arrays = [np.load(uri, allow_pickle=False) for uri in uris]
    assert [uri.rpartition("/")[2] for uri in uris] == ["pred_probs.npy", "labels.npy", "keys.npy"]
    assert (arrays[0] == probs).all()
    assert (arrays[1] == labels).all()
    assert arrays[2].tolist() == ["a", "bé", "c"]


BOMB = b'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>'
OUTSIDE = b'<!DOCTYPE b SYSTEM "file:///etc/passwd"><annotations><image name="a.b"/></annotations>'


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (BOMB, "must have no document type"),
        (OUTSIDE, "must have no document type"),
        (b"<annotations>&who;</annotations>", "no readable XML: undefined entity"),
        (b"<html/>", "must be CVAT's annotations"),
        (b"<annotations><image id='4' name='.jpg'/></annotations>", "name of image '4' without its extension must be"),
        (b"[" * 100_000, "no readable JSON"),
        (b"[1]", "task 1 must be an object, got 1"),
        ([{"data": {}}], r"task 1, data\.key must be a text of 1 to 1024 letters, got None"),
        ([{"data": {"key": "\ud800"}}], r"must be a text that can be written as UTF-8, got '\\ud800'"),
        ([{"data": {"key": "a", "suspicion": 1.5}}], r"data\.suspicion must be a number in \[0, 1\], got 1\.5"),
        ([{"data": {"key": "a"}, "annotations": [{"result": [choices("a", "b")]}]}], "must be a list of one class"),
        ([{"data": {"key": "a"}, "annotations": {"result": 1}}], "annotations must be a list of objects"),
        ({"classes": ["a"], "labels": {"k": 1}}, "must be a number below 1, the number of classes, got 1"),
        ({"classes": ["a"], "labels": {"k": {"attributes": 3}}}, "attributes must be an object, got 3"),
        (b'{"labels": {"k": NaN}}', "must be a text of 1 to 1024 letters, got nan"),
        (b"PAR1 and nothing more", "cannot be read as parquet"),
        (b"name,label\na,b\n", "must have the columns key, decision, or key, given_label, proposed_label"),
        (b"key,decision,score\na,b,high\n", r"row 1, score must be a number in \[0, 1\], got 'high'"),
        (b"key,decision\n,b\n", "row 1, key must be a text"),
        (b"is_label_issue,label_score\nTrue,.5\n", r"must have the columns key and label_score.*keys\.npy"),
        (b"", "not a readable CSV"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(found: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as error:
        read_marked(saved(tmp_path, found))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_parquet_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "t.parquet")
    for table, said in (
        (pa.table({"name": ["a"]}), "must be a table with a column key"),
        (pa.table({"key": ["a"], "score": ["b"]}), "column 'score' must be double"),
        (pa.table({"key": ["a"], "score": [-1.0]}), r"row 1, score must be a number in \[0, 1\], got -1\.0"),
        (pa.table({"key": ["a", None]}), "has no key"),
    ):
        pq.write_table(table, path)
        with pytest.raises(DataError, match=said):
            read_marked(path)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = [FORMATS[name].write(str(tmp_path / name), listed(random_issues(9)))[0] for name in NAMES]
    monkeypatch.setattr("ldlva_dist.exchange.common_form.MAX_BYTES", 500)
    monkeypatch.setattr("ldlva_dist.exchange.csv_list.MAX_BYTES", 500)
    monkeypatch.setattr("ldlva_dist.exchange.spotlight.MAX_ROWS", 8)
    for uri in uris:
        with pytest.raises(DataError, match="at most"):
            read_marked(uri)


def good_bytes(name: FormatName, folder: Path) -> bytes:
    return Path(FORMATS[name].write(str(folder), listed(random_issues(4)))[0]).read_bytes()


FIELDS = (
    *("data", "key", "given", "suspicion", "predictions", "annotations", "result", "type", "value", "choices"),
    *("classes", "labels", "label", "attributes", "decision", "completed_by", "annotator", "score"),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner | st.just("choices"),
            max_size=5,
        )
    ),
    max_leaves=20,
)


@st.composite
def broken(draw: st.DrawFn, whole: bytes) -> bytes:
    """A good file with some stretches overwritten, cut out or doubled."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 12))
        data[at : at + length] = draw(st.binary(max_size=6) | st.just(bytes(data[at : at + 3 * length])))
    return bytes(data)


def is_read_or_refused(read: Callable[[str], pa.Table], path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        found: pa.Table | str = read(str(path))
    except DataError as error:
        found = str(error)
    assert "\n" not in found if isinstance(found, str) else found.schema == common_form.SCHEMA


@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_are_read_or_refused(name: FormatName, tmp_path: Path) -> None:
    whole = good_bytes(name, tmp_path)

    @settings(max_examples=150, deadline=None)
    @given(data=broken(whole) | st.binary(max_size=60))
    def holds(data: bytes) -> None:
        is_read_or_refused(FORMATS[name].read, tmp_path / "broken", data)
        is_read_or_refused(read_marked, tmp_path / "broken", data)

    holds()


@pytest.mark.parametrize("name", ["label-studio", "fiftyone"])
def test_any_json_is_read_or_refused(name: FormatName, tmp_path: Path) -> None:
    @settings(max_examples=300, deadline=None)
    @given(found=st.lists(json_values, max_size=3) | st.fixed_dictionaries({"labels": json_values}) | json_values)
    def holds(found: Any) -> None:
        is_read_or_refused(FORMATS[name].read, tmp_path / "any.json", json.dumps(found).encode())

    holds()
