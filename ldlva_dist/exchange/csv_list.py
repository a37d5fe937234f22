"""CSV: the common form with a header, and the list that the report's page exports.

The page's list has the columns key, given_label and proposed_label, which is what the reviewer decided, and may have
reviewer. A cell
that a spreadsheet would take for a formula has an apostrophe before it, as the page puts it (templates/marks.js).
"""

import csv
import io
import re

import pyarrow as pa

from ldlva_dist import storage
from ldlva_dist.errors import DataError
from ldlva_dist.exchange.common_form import (
    MAX_BYTES,
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
from ldlva_dist.storage.csv_file import csv_columns, read_csv

FILE = "issues.csv"
OURS = ("key", "decision")
PAGE = ("key", "given_label", "proposed_label")
_FORMULA = r"[' ]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
_NEEDS_GUARD, _GUARDED = re.compile(_FORMULA), re.compile(f"'{_FORMULA}")


def write_csv_list(folder: str, listed: Listed) -> list[str]:
    """Write issues.csv; returns its address."""
    uri = storage.join(folder, FILE)
    storage.write_bytes(uri, issues_csv(listed.rows))
    return [uri]


def issues_csv(table: pa.Table) -> bytes:
    """A table of the common form as a CSV."""
    return csv_bytes(SCHEMA.names, [list(issue) for issue in as_issues(table)])


def read_csv_list(uri: str) -> pa.Table:
    """Either list; its columns key and decision must be there, others may."""
    names = csv_columns(uri)
    if set(PAGE) <= set(names):
        columns = {"key": "key", "given": "given_label", "decision": "proposed_label"}
        columns |= {"reviewer": "reviewer"} if "reviewer" in names else {}
    elif set(OURS) <= set(names):
        columns = {name: name for name in SCHEMA.names if name in names}
    else:
        raise DataError(f"{uri} must have the columns {', '.join(OURS)}, or {', '.join(PAGE)}, got {names[:20]}")
    found = text_columns(uri, columns)
    rows = []
    for line in range(len(found["key"])):
        place = f"{uri}, row {line + 1}"
        texts = {
            name: optional_text_at(cells[line], f"{place}, {columns[name]}")
            for name, cells in found.items()
            if name not in ("key", "score")
        }
        score = score_at(found["score"][line], f"{place}, score") if "score" in found else None
        rows.append(LabelIssue(key=text_at(found["key"][line], f"{place}, key"), score=score, **texts))
    return as_table(rows)


def text_columns(uri: str, columns: dict[str, str]) -> dict[str, list[str]]:
    """Cells of some columns of a CSV without their guards, by the names that ``columns`` gives to those of the file."""
    with storage.open_input(uri) as file:
        need(file.size() <= MAX_BYTES, uri, f"of at most {MAX_BYTES:,} bytes", file.size())
    table = read_csv(uri, list(columns.values()))
    return {name: [_unguarded(text) for text in table[column].to_pylist()] for name, column in columns.items()}


def csv_bytes(names: list[str], rows: list[list[object]]) -> bytes:
    """A CSV in UTF-8; null is an empty cell, numbers are written so that they are read back as they were."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_guarded(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue().encode()


def _guarded(text: str) -> str:
    return f"'{text}" if _NEEDS_GUARD.match(text) else text


def _unguarded(text: str) -> str:
    return text[1:] if _GUARDED.match(text) else text
