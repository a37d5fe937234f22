"""Every format by its name, and any of them recognised by what a file holds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from ldlva_dist import storage
from ldlva_dist.exchange.clean_lab import read_clean_lab, write_clean_lab
from ldlva_dist.exchange.common_form import Listed
from ldlva_dist.exchange.csv_list import read_csv_list, write_csv_list
from ldlva_dist.exchange.cvat import read_cvat, write_cvat
from ldlva_dist.exchange.fifty_one import read_fifty_one, write_fifty_one
from ldlva_dist.exchange.label_studio import read_label_studio, write_label_studio
from ldlva_dist.exchange.spotlight import read_spotlight, write_spotlight
from ldlva_dist.storage.csv_file import csv_columns

FormatName = Literal["csv", "label-studio", "fiftyone", "cleanlab", "spotlight", "cvat"]
HEAD_BYTES = 4096


@dataclass(frozen=True)
class Format:
    """How a tool's files are written and read."""

    write: Callable[[str, Listed], list[str]]
    """Writes into a folder; returns the addresses of the files, first the one that ``read`` takes."""
    read: Callable[[str], pa.Table]
    images: str | None = None
    """Folder beside the file that the images go to; None where the tool needs none."""


FORMATS: dict[FormatName, Format] = {
    "csv": Format(write_csv_list, read_csv_list),
    "label-studio": Format(write_label_studio, read_label_studio, "images"),
    "fiftyone": Format(write_fifty_one, read_fifty_one, "data"),
    "cleanlab": Format(write_clean_lab, read_clean_lab),
    "spotlight": Format(write_spotlight, read_spotlight, "images"),
    "cvat": Format(write_cvat, read_cvat, "images"),
}


def recognise(uri: str) -> FormatName:
    """The format of a file by its first bytes, or its header; what is none of them is taken for a CSV."""
    head = storage.read_bytes(uri, HEAD_BYTES)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if head.startswith(b"PAR1"):
        return "spotlight"
    by_letter: dict[bytes, FormatName] = {b"<": "cvat", b"[": "label-studio", b"{": "fiftyone"}
    if start in by_letter:
        return by_letter[start]
    return "cleanlab" if "label_score" in csv_columns(uri) else "csv"


def read_marked(uri: str) -> pa.Table:
    """What a file in any of the formats says, in the common form.

    Raises:
        DataError: for a file that is none of them, or damaged: the sentence names the place.
    """
    return FORMATS[recognise(uri)].read(uri)
