"""The one form between all formats: a table with a row for each sample and reviewer. n = rows.

A reader takes bytes of strangers: whatever is wrong with them is a DataError of one sentence with the file, the place,
the rule and the value.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.errors import DataError
from ldlva_dist.values.settings import shown

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("given", pa.string()),  # class that the sample has; null where the tool does not say it
        ("proposed", pa.string()),  # class that the run proposes
        ("score", pa.float64()),  # suspicion in [0, 1], high = the label is probably wrong
        ("decision", pa.string()),  # class that a reviewer chose; null where nobody decided
        ("reviewer", pa.string()),  # who decided; null where the tool does not say it
    ]
)
MAX_BYTES = 256 << 20
"""Largest file that is read whole: about a million tasks."""
MAX_ROWS = 10_000_000
MAX_TEXT = 1024
"""Letters of a key, a class or a reviewer."""


class LabelIssue(NamedTuple):
    """A row of the table, named as in SCHEMA."""

    key: str
    given: str | None = None
    proposed: str | None = None
    score: float | None = None
    decision: str | None = None
    reviewer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What is written: doubtful samples, and what some tools want beside the table."""

    rows: pa.Table
    """[n] of SCHEMA, the most doubtful first; key, given, proposed and score are never null, reviewer always is."""
    class_names: Sequence[str]
    image_names: Sequence[str]
    """[n] names of the image files: the key and an extension."""
    image_sizes: Sequence[tuple[int, int]]
    """[n] width and height in pixels."""
    image_address: str
    """Where a browser finds the folder of the images."""
    embedding_nV: NDArray[np.float32]
    """What the network says of each sample: features, or probabilities."""


def as_table(rows: Iterable[LabelIssue]) -> pa.Table:
    """The table of some rows."""
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    return pa.table(arrays, schema=SCHEMA)


def as_issues(table: pa.Table) -> list[LabelIssue]:
    """The rows of a table."""
    return [LabelIssue(*values) for values in zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True)]


def read_whole(uri: str) -> bytes:
    """A file of at most MAX_BYTES; a larger one is a DataError."""
    data = storage.read_bytes(uri, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DataError(f"{uri} must be at most {MAX_BYTES >> 20} MiB, and is larger: split it")
    return data


def read_json(uri: str) -> Any:
    """What a file is as JSON; anything else is a DataError."""
    try:
        return json.loads(read_whole(uri))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{uri} is no readable JSON: {str(error)[:100]}") from error


def need(condition: bool, place: str, rule: str, value: object) -> None:
    """DataError unless the condition holds: file and place, the rule as it goes on from "must be", and the value."""
    if not condition:
        raise DataError(f"{place} must be {rule}, got {shown(value)}")


def text_at(value: object, place: str) -> str:
    """A value that must be a text: not empty, of at most MAX_TEXT letters, all of which can be written."""
    need(isinstance(value, str) and 0 < len(value) <= MAX_TEXT, place, f"a text of 1 to {MAX_TEXT} letters", value)
    assert isinstance(value, str)
    is_clean = "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    need(is_clean, place, "a text that can be written as UTF-8", value)
    return value


def optional_text_at(value: object, place: str) -> str | None:
    """The same, or None for nothing: null or an empty text."""
    return None if value is None or value == "" else text_at(value, place)


def score_at(value: object, place: str) -> float | None:
    """A number in [0, 1], or None for nothing; a text may hold the number."""
    if value is None or value == "":
        return None
    number = -1.0
    if isinstance(value, str):
        with suppress(ValueError):
            number = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = value
    need(0 <= number <= 1, place, "a number in [0, 1]", value)
    return float(number)


def issue_of(key: str, label: str | None, facts: Mapping[str, object], place: str) -> LabelIssue:
    """A row from a tool that holds one label for each sample, and the facts that were written beside it.

    The label was written as the decision, or else as the given class; only another one is a new decision.
    """
    given, proposed, decided = (
        optional_text_at(facts.get(name), f"{place}, {name}") for name in ("given", "proposed", "decision")
    )
    decision = decided if label == (decided or given) else label
    return LabelIssue(key, given, proposed, score_at(facts.get("suspicion"), f"{place}, suspicion"), decision)


def facts_of(row: LabelIssue) -> dict[str, Any]:
    """What is written beside a label for :func:`issue_of` to read back."""
    facts = {"given": row.given, "proposed": row.proposed, "suspicion": row.score, "decision": row.decision}
    return {name: value for name, value in facts.items() if value is not None}
