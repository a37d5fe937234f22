"""The uncertainty table in a checkpoint: files of at most a million rows, named by the ids they hold.

Small files, so that a rank on any other number of ranks reads what holds its rows, one after the other, and never needs
memory for much more than these.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from ldlva_dist import storage
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.tensors import pack
from ldlva_dist.errors import DataError
from ldlva_dist.method.uncertainty_table import UncertaintyTable
from ldlva_dist.models.weights_file import read_safetensors

FOLDER = "table"
FILE_ROWS = 1 << 20
_IDS = re.compile(r"/ids-(\d{1,15})-(\d{1,15})\.safetensors$", re.ASCII)


def table_files(table: UncertaintyTable) -> dict[str, Callable[[], bytes]]:
    """This rank's files, copied out of the table; each gives its bytes when called."""
    state = {name: values.clone() for name, values in table.state().items()}
    files: dict[str, Callable[[], bytes]] = {}
    for begin in range(table.start, table.stop, FILE_ROWS):
        end = min(begin + FILE_ROWS, table.stop)
        files[f"{FOLDER}/ids-{begin:012d}-{end:012d}.safetensors"] = partial(_part, state, table.start, begin, end)
    return files


def restore_table(table: UncertaintyTable, saved: Checkpoint) -> None:
    """Take this rank's rows out of the files that any number of ranks wrote."""
    try:
        table.restore(read_table(saved, table.start, table.stop))
    except ValueError as error:
        raise DataError(f"{saved.uri} is damaged: {error}") from error


def read_table(saved: Checkpoint, start: int, stop: int) -> Iterator[dict[str, Tensor]]:
    """The parts that hold any of the ids start..stop-1, in id order, read one by one."""
    for name in saved.names(FOLDER):
        uri, numbers = storage.join(saved.uri, name), _IDS.search(name)
        if not numbers:
            raise DataError(f"{uri} has not the name of a part of the table")
        begin, end = int(numbers[1]), int(numbers[2])
        if begin < stop and start < end:
            part = read_safetensors(saved.read(name), uri)
            _check(uri, part, begin, end)
            yield part


def _check(uri: str, part: Mapping[str, Tensor], begin: int, end: int) -> None:
    """DataError unless a part holds the rows that its name says."""
    shapes = {"first_id": (1,), "logits": (end - begin,), "velocity": (end - begin,)}
    found = {name: tuple(values.shape) for name, values in part.items()}
    if found != shapes or part["logits"].dtype != torch.float32 or part["velocity"].dtype != torch.float32:
        raise DataError(f"{uri} is damaged: it must hold float32 {shapes}, got {found}")
    if int(part["first_id"]) != begin:
        raise DataError(f"{uri} is damaged: its rows begin at {int(part['first_id'])}")


def read_logits(saved: Checkpoint, num_rows: int) -> Tensor:
    """[num_rows] the logits of all samples, for evaluation."""
    table = UncertaintyTable(num_rows, initial_logit=0.0, lr=0.0)
    restore_table(table, saved)
    return table.state()["logits"]


def _part(state: dict[str, Tensor], start: int, begin: int, end: int) -> bytes:
    rows = {name: state[name][begin - start : end - start] for name in ("logits", "velocity")}
    return pack("uncertainties", rows | {"first_id": state["first_id"] + begin - start})
