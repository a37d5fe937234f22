"""Spotlight: a parquet with the common form, the path of each image and an embedding; it opens as it is."""

import pyarrow as pa
import pyarrow.parquet as pq

from ldlva_dist import storage
from ldlva_dist.dataset.stored_rows import open_rows
from ldlva_dist.exchange.common_form import (
    MAX_ROWS,
    SCHEMA,
    LabelIssue,
    Listed,
    as_issues,
    as_table,
    need,
    optional_text_at,
    score_at,
    text_at,
)

FILE = "issues.parquet"


def write_spotlight(folder: str, listed: Listed) -> list[str]:
    """Write issues.parquet; returns its address."""
    table = listed.rows.append_column(
        "image", pa.array([f"{listed.image_address}/{name}" for name in listed.image_names], pa.string())
    ).append_column("embedding", pa.array(list(listed.embedding_nV), pa.list_(pa.float32())))
    uri, sink = storage.join(folder, FILE), pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue().to_pybytes())
    return [uri]


def read_spotlight(uri: str) -> pa.Table:
    """A parquet with a column key and any other of the common form."""
    rows = []
    with open_rows(uri, SCHEMA, ("key",)) as file:
        need(file.num_rows <= MAX_ROWS, uri, f"at most {MAX_ROWS:,} rows", file.num_rows)
        need("key" in file.names, uri, "a table with a column key", list(file.names))
        for block in file.blocks(file.names, 65_536):
            absent = [name for name in SCHEMA.names if name not in file.names]
            for name in absent:
                block = block.append_column(name, pa.nulls(len(block), SCHEMA.field(name).type))
            rows += [
                _checked(row, f"{uri}, row {number}") for number, row in enumerate(as_issues(block), len(rows) + 1)
            ]
    return as_table(rows)


def _checked(row: LabelIssue, place: str) -> LabelIssue:
    texts = {
        name: optional_text_at(getattr(row, name), f"{place}, {name}")
        for name in ("given", "proposed", "decision", "reviewer")
    }
    return LabelIssue(key=text_at(row.key, f"{place}, key"), score=score_at(row.score, f"{place}, score"), **texts)
