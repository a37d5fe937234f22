"""cleanlab: its issues.csv with the key of each sample, and arrays for find_label_issues; never its pickles.

cleanlab calls 1 - suspicion label_score. Its own files have no key: the column is to be added from keys.npy, as
docs/how-to/exchange.md shows.
"""

import io

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.errors import DataError
from ldlva_dist.exchange.common_form import LabelIssue, Listed, as_issues, as_table, optional_text_at, score_at, text_at
from ldlva_dist.exchange.csv_list import csv_bytes, text_columns
from ldlva_dist.storage.csv_file import csv_columns

FILE = "issues.csv"
NEEDED = ("key", "label_score")
COLUMNS = ("key", "is_label_issue", "label_score", "given_label", "predicted_label", "suspicion", "decision")


def write_clean_lab(folder: str, listed: Listed) -> list[str]:
    """Write issues.csv; returns its address."""
    uri = storage.join(folder, FILE)
    storage.write_bytes(uri, csv_bytes(list(COLUMNS), [_cells(row) for row in as_issues(listed.rows)]))
    return [uri]


def write_arrays(folder: str, probs_NC: NDArray[np.float32], labels_N: NDArray[np.int64], keys: pa.Array) -> list[str]:
    """Write pred_probs.npy, labels.npy and keys.npy of all training samples, by id; returns their addresses."""
    arrays = {"pred_probs": probs_NC, "labels": labels_N, "keys": np.array(keys.to_pylist(), dtype=np.str_)}
    uris = []
    for name, values in arrays.items():
        file = io.BytesIO()
        np.save(file, values, allow_pickle=False)
        uris.append(storage.join(folder, f"{name}.npy"))
        storage.write_bytes(uris[-1], file.getvalue())
    return uris


def read_clean_lab(uri: str) -> pa.Table:
    """An issues.csv of cleanlab's, or of :func:`write_clean_lab`, with a column of keys."""
    names = csv_columns(uri)
    if not set(NEEDED) <= set(names):
        raise DataError(
            f"{uri} must have the columns {' and '.join(NEEDED)}, got {names[:20]}; keys.npy holds the keys of the "
            "samples that cleanlab was given"
        )
    found = text_columns(uri, {name: name for name in COLUMNS if name in names})
    nothing = [""] * len(found["key"])
    rows = []
    for line, key in enumerate(found["key"]):
        place = f"{uri}, row {line + 1}"
        given, proposed, decision = (
            optional_text_at(found.get(name, nothing)[line], f"{place}, {name}")
            for name in ("given_label", "predicted_label", "decision")
        )
        score = score_at(found.get("suspicion", nothing)[line], f"{place}, suspicion")
        quality = score_at(found["label_score"][line], f"{place}, label_score")
        if score is None and quality is not None:
            score = 1 - quality
        rows.append(LabelIssue(text_at(key, f"{place}, key"), given, proposed, score, decision))
    return as_table(rows)


def _cells(row: LabelIssue) -> list[object]:
    assert row.score is not None
    quality, is_issue = 1 - row.score, row.given != row.proposed
    return [row.key, is_issue, quality, row.given, row.proposed, row.score, row.decision]
