"""What a run left behind may hold anything: the right values are read, or one sentence names the file."""

import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.bank import checkpoint_parts
from ldlva_dist.bank.checkpoint_parts import PartHeader, part_file, unpack
from ldlva_dist.bank.copy_on_write import CopyOnWriteRows
from ldlva_dist.bank.records import BankSpec, blank
from ldlva_dist.checkpoint import state_file
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.saved_files import write_saved_file
from ldlva_dist.checkpoint.state_file import write_state
from ldlva_dist.errors import DataError
from ldlva_dist.records.ids_log import read_ids
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.records.uncertainty_history import read_history, write_history
from ldlva_dist.storage import checksums

FEW = settings(max_examples=100, derandomize=True, deadline=None)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=3),
    max_leaves=5,
)
FACTS: dict[str, Any] = {"step": 7, "class_names": ["a"], "content_hash": "0", "num_train": 3, "metrics": {"loss": 0.5}}


@contextmanager
def right_or(sentence: str) -> Iterator[None]:
    """What is in the block holds, or there is a DataError with a sentence."""
    try:
        yield
    except DataError as error:
        if not re.search(sentence, str(error)):
            raise


def _finished(uri: str, facts: dict[str, Any], **files: bytes) -> Checkpoint:
    """A checkpoint of any content, whose checksums are right."""
    write_state(uri, facts, {name: write_saved_file(uri, name, data) for name, data in files.items()})
    return Checkpoint.open(uri)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("step", "7", "step must be a count, got '7'"),
        ("step", -1, "step must be a count, got -1"),
        ("metrics", [], "metrics must be an object of numbers"),
        ("metrics", {"loss": "low"}, "metrics must be an object of numbers"),
        ("class_names", "abc", "class_names must be a list of texts, got 'abc'"),
        ("content_hash", 5, "content_hash must be a text, got 5"),
    ],
)
def test_a_fact_of_another_kind_is_named_though_the_checksum_is_right(
    tmp_path: Path, name: str, value: Any, rule: str
) -> None:
    with pytest.raises(DataError, match=rf"state\.json is damaged: {rule}"):
        _finished(str(tmp_path), FACTS | {name: value})


def test_a_fact_that_is_missing_is_named(tmp_path: Path) -> None:
    facts = _finished(str(tmp_path), {"step": 7}).facts
    assert facts["step"] == 7
    with pytest.raises(DataError, match=r"state\.json is damaged: it has no class_names"):
        facts["class_names"]


def test_a_checkpoint_lists_files_of_its_own_only(tmp_path: Path) -> None:
    for name in ("../../secret", "/etc/passwd", "a//b", ""):
        facts = {"format_version": 2, **FACTS, "files": {name: {"size": 1, "crc32": 1}}}
        (tmp_path / "state.json").write_text(json.dumps(facts | {"crc32": state_file._checksum(facts)}))
        with pytest.raises(DataError, match="files must be an object of files"):
            Checkpoint.open(str(tmp_path))


@given(content=st.binary(max_size=50) | VALUES.map(lambda value: json.dumps(value).encode()))
@FEW
def test_any_state_and_any_settings_are_a_checkpoint_or_a_sentence(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "state.json").write_bytes(content)
        with pytest.raises(DataError, match=r"state\.json"):
            Checkpoint.open(folder)
        saved = _finished(folder, FACTS, **{"config.json": content})
        with right_or("config.json is damaged"):
            assert saved.config


@given(name=st.sampled_from(sorted(FACTS)), value=VALUES)
@FEW
def test_any_fact_is_what_it_must_be_or_a_sentence(name: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, right_or("state.json is damaged"):
        assert _finished(folder, FACTS | {name: value}).facts[name] == value


def _table(logits: torch.Tensor, first: int = 0) -> bytes:
    return safetensors.torch.save(
        {"first_id": torch.tensor([first]), "logits": logits, "velocity": torch.zeros(len(logits))}
    )


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"table/ids-0-3.safetensors": b"\x80\x04\x95 a pickle"}, "ids-0-3.safetensors is no safetensors file"),
        ({"table/ids-0-3.safetensors": _table(torch.zeros(2))}, "ids-0-3.safetensors is damaged: it must hold"),
        ({"table/ids-0-3.safetensors": _table(torch.zeros(3), 1)}, "its rows begin at 1"),
        ({"table/part.safetensors": _table(torch.zeros(3))}, "part.safetensors has not the name of a part"),
        ({"table/ids-0-2.safetensors": _table(torch.zeros(2))}, r"covers 2 of the rows 0\.\.3"),
        ({}, r"covers 0 of the rows 0\.\.3"),
    ],
)
def test_a_table_that_is_damaged_or_lacks_rows_is_named(tmp_path: Path, files: dict[str, bytes], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        _finished(str(tmp_path), FACTS, **files).read_logits(3)


def test_a_whole_table_is_read(tmp_path: Path) -> None:
    files = {
        "table/ids-0-2.safetensors": _table(torch.tensor([1.0, 2.0])),
        "table/ids-2-3.safetensors": _table(torch.tensor([3.0]), 2),
    }
    assert _finished(str(tmp_path), FACTS, **files).read_logits(3).tolist() == [1.0, 2.0, 3.0]


SPEC = BankSpec(num_classes=2, feature_width=3)


def _bank_part() -> bytes:
    header = PartHeader(start=0, stop=4, step=5)
    return io.BufferedReader(part_file(CopyOnWriteRows(blank(0, 4, SPEC)), blank(0, 0, SPEC), header)).read()


def _read_bank(data: bytes) -> checkpoint_parts.RestoredRows:
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{folder}/ids-000000000000-000000000004.safetensors"
        Path(uri).write_bytes(data)
        return unpack({uri: checksums.describe(data)}, 0, 4, SPEC)


def _without(data: bytes, name: str) -> bytes:
    tensors = {key: value for key, value in safetensors.numpy.load(data).items() if key != name}
    bank = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return safetensors.numpy.save(tensors, bank)


def _with_header(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


def test_a_part_of_a_bank_that_is_whole_is_read_and_one_that_lacks_a_column_or_lies_of_its_size_is_named() -> None:
    whole = _bank_part()
    assert _read_bank(whole).visible.records.shape == (4,)
    for name in ("probs", "features", "versions", "young_ids"):
        with pytest.raises(DataError, match="is damaged: its columns have the rows"):
            _read_bank(_without(whole, name))
    huge = [1 << 40, 3]
    with pytest.raises(DataError, match="its tensors have not the sizes that its header says"):
        _read_bank(_with_header(whole, lambda header: header["features"].update(shape=huge)))
    with pytest.raises(DataError, match="its header says nothing of a bank"):
        _read_bank(_with_header(whole, lambda header: header.pop("__metadata__")))
    with pytest.raises(DataError, match="no file of tensors has a header of"):
        _read_bank(b"\xff" * 16)


@given(data=st.data())
@FEW
def test_any_bytes_are_a_part_of_a_bank_or_a_sentence(data: st.DataObject) -> None:
    part = bytearray(_bank_part())
    for _ in range(data.draw(st.integers(1, 4))):
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(part[: data.draw(st.integers(0, len(part)))]) if data.draw(st.booleans()) else bytes(part)
    with right_or("bank|ids-"):
        assert len(_read_bank(cut).visible.records) == 4


LINE = b'{"step": 1, "loss": 0.5}\n'


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"not json", "it is no JSON"),
        (b"", "it is no JSON"),
        (b"\xff\xfe\x00", "it is no JSON"),
        (b"[1]", "it must be a JSON object"),
        (b'{"loss": 1.0}', "its step must be a whole number, got None"),
        (b'{"step": 2, "loss": "low"}', "loss must be a number or null, got 'low'"),
        (LINE.strip(), r"its step must be above that of the line before \(1\), got 1"),
        (b'{"step": 0}', r"its step must be above that of the line before \(1\), got 0"),
    ],
)
def test_a_damaged_line_of_the_log_is_named_by_its_number(tmp_path: Path, line: bytes, what: str) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(LINE + line + b"\n" + LINE)
    with pytest.raises(DataError, match=rf"line 2 of .*metrics\.jsonl is damaged: {what}"):
        read_metrics(str(tmp_path))


@given(torn=st.binary(max_size=30).filter(lambda data: b"\n" not in data))
@FEW
def test_whatever_a_killed_process_left_of_its_last_line_is_passed_over(torn: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "metrics.jsonl").write_bytes(LINE + torn)
        assert read_metrics(folder) == [{"step": 1, "loss": 0.5}]


@given(lines=st.lists(st.binary(max_size=20) | VALUES.map(lambda value: json.dumps(value).encode()), max_size=3))
@FEW
def test_any_log_is_lines_or_a_sentence(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "metrics.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        with right_or("metrics.jsonl is damaged"):
            assert all(type(line["step"]) is int for line in read_metrics(folder))


@given(data=st.data())
@FEW
def test_any_history_is_read_or_a_sentence(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_history(folder, np.linspace(0, 1, 4), step=3, epoch=0.5, rank=0, first_id=0)
        path = next(Path(folder, "history").iterdir())
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        Path(folder, "history", "notes.txt").write_text("somebody's")
        with right_or("history"):
            assert read_history(folder, np.arange(4)).uncertainty.shape == (1, 4)


def test_a_history_and_a_log_of_ids_of_other_columns_are_named(tmp_path: Path) -> None:
    for folder in ("history", "ids"):
        (tmp_path / folder).mkdir()
        table = pa.table({"uncertainty": pa.array([2.0], pa.float32())})
        facts = json.dumps({"step": 3, "epoch": 0.5, "first_id": 0})
        pq.write_table(
            table.replace_schema_metadata({"history": facts}), tmp_path / folder / "step-00000003-rank-00000.parquet"
        )
    with pytest.raises(DataError, match=r"uncertainty must be in \[0, 1\]"):
        read_history(str(tmp_path), np.arange(1))
    with pytest.raises(DataError, match="is no part of a log of ids: it must have whole numbers"):
        read_ids(str(tmp_path))
