"""The uncertainty table in a checkpoint: files of at most a million rows, named by the ids they hold.

Small files, so that a rank on any other number of ranks reads what holds its rows, one after the other, and never needs
memory for much more than these.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from ldlva_dist.checkpoint.tensors import pack_tensors
from ldlva_dist.errors import DataError
from ldlva_dist.method.uncertainty_table import UncertaintyTable

TABLE_FOLDER = "table"
FILE_ROWS = 1 << 20
_IDS = re.compile(r"/ids-(\d{1,15})-(\d{1,15})\.safetensors$", re.ASCII)


def table_files(table: UncertaintyTable) -> dict[str, Callable[[], bytes]]:
    """This rank's files, copied out of the table; each gives its bytes when called."""
    state = {name: values.clone() for name, values in table.state().items()}
    files: dict[str, Callable[[], bytes]] = {}
    for begin in range(table.start, table.stop, FILE_ROWS):
        end = min(begin + FILE_ROWS, table.stop)
        files[f"{TABLE_FOLDER}/ids-{begin:012d}-{end:012d}.safetensors"] = partial(
            _part, state, table.start, begin, end
        )
    return files


def table_part_ids(uri: str) -> tuple[int, int]:
    """First id of a part of the table, and the one after its last, by its name."""
    numbers = _IDS.search(uri)
    if not numbers:
        raise DataError(f"{uri} has not the name of a part of the table")
    return int(numbers[1]), int(numbers[2])


def check_table_part(uri: str, part: Mapping[str, Tensor], begin: int, end: int) -> None:
    """DataError unless a part holds the rows that its name says, with one number or several in each."""
    columns = tuple(part["logits"].shape[1:]) if "logits" in part else ()
    shapes = {"first_id": (1,), "logits": (end - begin, *columns), "velocity": (end - begin, *columns)}
    found = {name: tuple(values.shape) for name, values in part.items()}
    if (
        found != shapes
        or len(columns) > 1
        or part["logits"].dtype != torch.float32
        or part["velocity"].dtype != torch.float32
    ):
        raise DataError(f"{uri} is damaged: it must hold float32 {shapes}, got {found}")
    if int(part["first_id"]) != begin:
        raise DataError(f"{uri} is damaged: its rows begin at {int(part['first_id'])}")


def _part(state: dict[str, Tensor], start: int, begin: int, end: int) -> bytes:
    rows = {name: state[name][begin - start : end - start] for name in ("logits", "velocity")}
    return pack_tensors("uncertainties", rows | {"first_id": state["first_id"] + begin - start})
