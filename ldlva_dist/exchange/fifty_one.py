"""FiftyOne: a FiftyOneImageClassificationDataset, the folder data/ and labels.json; read back by labels.json.

A label's confidence is 1 - suspicion; given, proposed, suspicion and decision are its attributes.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ldlva_dist import storage
from ldlva_dist.exchange.common_form import (
    LabelIssue,
    Listed,
    as_issues,
    as_table,
    facts_of,
    issue_of,
    need,
    read_json,
    text_at,
)

FILE = "labels.json"


def write_fifty_one(folder: str, listed: Listed) -> list[str]:
    """Write labels.json; returns its address."""
    index = {name: number for number, name in enumerate(listed.class_names)}
    labels = {row.key: _label(row, index) for row in as_issues(listed.rows)}
    uri = storage.join(folder, FILE)
    text = json.dumps({"classes": list(listed.class_names), "labels": labels}, ensure_ascii=False, indent=1)
    storage.write_bytes(uri, f"{text}\n".encode())
    return [uri]


def read_fifty_one(uri: str) -> pa.Table:
    """A labels.json: the label of each image by its name, which is the key."""
    found = read_json(uri)
    need(isinstance(found, dict) and isinstance(found.get("labels"), dict), uri, "an object with labels", found)
    classes = found.get("classes")
    need(classes is None or isinstance(classes, list), f"{uri}, classes", "a list", classes)
    return as_table(_row(stem, label, classes or [], uri) for stem, label in found["labels"].items())


def _label(row: LabelIssue, index: dict[str, int]) -> dict[str, Any]:
    assert row.given is not None
    assert row.score is not None
    return {"label": index[row.decision or row.given], "confidence": 1 - row.score, "attributes": facts_of(row)}


def _row(stem: str, label: Any, classes: Sequence[object], uri: str) -> LabelIssue:
    key = text_at(stem.rpartition("/")[2], f"{uri}, name of a label")
    place = f"{uri}, label of {key!r:.80}"
    if isinstance(label, list):
        need(len(label) <= 1, place, "one class", label)
        label = label[0] if label else None
    facts: Any = {}
    if isinstance(label, dict):
        facts = label.get("attributes") or {}
        need(isinstance(facts, dict), f"{place}, attributes", "an object", facts)
        label = label.get("label")
    if isinstance(label, int) and not isinstance(label, bool):
        need(0 <= label < len(classes), place, f"a number below {len(classes)}, the number of classes", label)
        label = classes[label]
    return issue_of(key, None if label is None else text_at(label, place), facts, place)
