"""Predictions in numbered parts of 4,096 images; a part that exists is done.

OUTPUT/predictions/part-NNNNN.parquet: ``key`` (and ``id``), ``class``, ``entropy``, ``p_CLASS`` of each class and, on
request, ``feature``. OUTPUT/rejected.parquet: ``key`` and ``reason`` of images that could not be read. OUTPUT/
predictions.json comes last. n = images of a block, C = classes, V = feature width.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.inference.description import Description
from ldlva_dist.inference.face_model import Answers, FaceModel
from ldlva_dist.inference.inputs import Block, Inputs
from ldlva_dist.runtime import unfinished

T = TypeVar("T")
PART_ROWS = 4096
PARTS, REJECTED, DONE = "predictions", "rejected.parquet", "predictions.json"
WORK = ".work"
"""Folder of what only an unfinished job needs."""
REJECTED_SCHEMA = pa.schema([("key", pa.string()), ("reason", pa.string())])
_PART = re.compile(r"part-(\d+)\.parquet")


@dataclass(frozen=True, kw_only=True)
class PredictionWork:
    """What every worker needs to know; plain values."""

    output: str
    inputs: Inputs
    batch_size: int
    features: bool
    """Whether features are written too."""
    part_rows: int = PART_ROWS

    @property
    def num_parts(self) -> int:
        """Of all images."""
        return -(-self.inputs.num_rows // self.part_rows)

    def rows(self, part: int) -> int:
        """Images of a part."""
        return min(self.part_rows, self.inputs.num_rows - part * self.part_rows)

    def part_uri(self, part: int) -> str:
        """Where it is written."""
        return storage.join(self.output, PARTS, f"part-{part:05d}.parquet")

    def rejected_uri(self, part: int) -> str:
        """Where its rejected images are listed until the job is done; no file where there are none."""
        return storage.join(self.output, WORK, f"rejected-{part:05d}.parquet")


def open_parts(work: PredictionWork, facts: Mapping[str, Any]) -> list[int]:
    """The parts that are still to be done; ``facts`` are remembered.

    Raises:
        SettingError: where the output holds parts that were made with other facts, or anything else.
        DataError: where it does not say what its parts are made of.
    """
    about = storage.join(work.output, WORK)
    if storage.list_folder(work.output) and not storage.exists(about):
        raise SettingError(f"--output must not exist, got {work.output!r}")
    unfinished.begin_pieces(about, facts, "--output")
    return missing(work)


def predict_part(work: PredictionWork, model: FaceModel, part: int) -> int:
    """Read, predict and write one part.

    Returns:
        How many of its images were rejected; they are listed before the part is there.
    """
    begin, seen = part * work.part_rows, 0
    written: list[pa.Table] = []
    rejected: list[dict[str, str]] = []
    for block, prepared in _one_ahead(_prepared(work, model, begin, begin + work.rows(part))):
        seen += len(prepared)
        good = np.array([isinstance(image, np.ndarray) for image in prepared])
        keys = block.names["key"].to_pylist()
        rejected += [
            {"key": keys[n], "reason": str(image)} for n, image in enumerate(prepared) if isinstance(image, DataError)
        ]
        images = [image for image in prepared if isinstance(image, np.ndarray)]
        names = block.names.filter(pa.array(good))
        written.append(_table(names.slice(0, 0), _no_answers(model.description), model.description, work.features))
        for at in range(0, len(images), work.batch_size):
            answers = model(np.stack(images[at : at + work.batch_size]))
            written.append(_table(names.slice(at, work.batch_size), answers, model.description, work.features))
    if seen != work.rows(part):
        raise DataError(f"part {part} should have {work.rows(part)} images, got {seen}: the input changed meanwhile")
    if rejected:
        storage.write_bytes(work.rejected_uri(part), _parquet(pa.Table.from_pylist(rejected, schema=REJECTED_SCHEMA)))
    storage.write_bytes(work.part_uri(part), _parquet(pa.concat_tables(written)))
    return len(rejected)


def count_rejected(work: PredictionWork, todo: Sequence[int]) -> int:
    """Images that the parts have rejected that are not to be done."""
    still_open = {work.rejected_uri(part) for part in todo}  # one that was interrupted may have left its list
    return sum(len(table) for uri, table in _rejected(work) if uri not in still_open)


def write_rejected(work: PredictionWork) -> str:
    """Write the list of all rejected images so far; returns its place."""
    uri = storage.join(work.output, REJECTED)
    tables = [table for _, table in _rejected(work)]
    storage.write_bytes(uri, _parquet(pa.concat_tables([REJECTED_SCHEMA.empty_table(), *tables])))
    return uri


def finish_predictions(work: PredictionWork, facts: Mapping[str, Any]) -> None:
    """Make the output whole: its last file says what it is, and what only the job needed goes."""
    write_rejected(work)
    storage.write_bytes(storage.join(work.output, DONE), (json.dumps(facts, indent=1) + "\n").encode())
    storage.delete_folder(storage.join(work.output, WORK))


def finished_parts(output: str) -> dict[str, Any] | None:
    """What the last file of a finished output says; None where there is none."""
    uri = storage.join(output, DONE)
    return unfinished.read_facts(uri) if storage.exists(uri) else None


def missing(work: PredictionWork) -> list[int]:
    """The parts that are not there."""
    names = storage.list_folder(storage.join(work.output, PARTS))
    there = {int(found[1]) for name in names if (found := _PART.fullmatch(name))}
    return sorted(set(range(work.num_parts)) - there)


def _rejected(work: PredictionWork) -> Iterator[tuple[str, pa.Table]]:
    """The lists of single parts, and where they lie."""
    folder = storage.join(work.output, WORK)
    for name in storage.list_folder(folder):
        if name.startswith("rejected-"):
            uri = storage.join(folder, name)
            yield uri, pq.read_table(pa.BufferReader(storage.read_bytes(uri)))


def _prepared(
    work: PredictionWork, model: FaceModel, begin: int, end: int
) -> Iterator[tuple[Block, list[NDArray[np.uint8] | DataError]]]:
    for block in work.inputs.blocks(begin, end):
        yield block, [_prepare(model, image) for image in block.images]


def _prepare(model: FaceModel, image: bytes | memoryview | DataError) -> NDArray[np.uint8] | DataError:
    if isinstance(image, DataError):
        return image
    try:
        return model.prepare(image)
    except DataError as error:
        return error


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; the next one is made in a thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = pool.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = pool.submit(next, items, None)
            yield item


def _table(names: pa.Table, answers: Answers, description: Description, features: bool) -> pa.Table:
    """[n] rows of a part."""
    classes = np.asarray(description.class_names)
    table = names.append_column("class", pa.array(classes[answers.probs_nC.argmax(axis=1)], pa.string()))
    table = table.append_column("entropy", pa.array(answers.entropy_n))
    for column, name in enumerate(description.class_names):
        table = table.append_column(f"p_{name}", pa.array(np.ascontiguousarray(answers.probs_nC[:, column])))
    if features:
        flat = pa.array(answers.features_nV.reshape(-1))
        table = table.append_column("feature", pa.FixedSizeListArray.from_arrays(flat, description.feature_width))
    return table


def _no_answers(description: Description) -> Answers:
    return Answers(
        probs_nC=np.zeros((0, len(description.class_names)), np.float32),
        features_nV=np.zeros((0, description.feature_width), np.float32),
    )


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
