"""The uncertainty table in a checkpoint: files of at most a million rows, named by the ids they hold.

Small files, so that a rank on any other number of ranks reads what holds its rows, one after the other, and never needs
memory for much more than these.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from safetensors.torch import load
from torch import Tensor

from ldlva_dist.training.checkpoint import Checkpoint
from ldlva_dist.training.finite import pack
from ldlva_dist.uncertainty import UncertaintyTable

FOLDER = "table"
FILE_ROWS = 1 << 20


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
    table.restore(read_table(saved, table.start, table.stop))


def read_table(saved: Checkpoint, start: int, stop: int) -> Iterator[dict[str, Tensor]]:
    """The parts that hold any of the ids start..stop-1, in id order, read one by one."""
    for name in saved.names(FOLDER):
        begin, end = (int(number) for number in name.removesuffix(".safetensors").split("-")[1:])
        if begin < stop and start < end:
            yield load(saved.read(name))


def read_logits(saved: Checkpoint, num_rows: int) -> Tensor:
    """[num_rows] the logits of all samples, for evaluation."""
    logits = torch.empty(num_rows)
    for part in read_table(saved, 0, num_rows):
        first = int(part["first_id"])
        logits[first : first + len(part["logits"])] = part["logits"]
    return logits


def _part(state: dict[str, Tensor], start: int, begin: int, end: int) -> bytes:
    rows = {name: state[name][begin - start : end - start] for name in ("logits", "velocity")}
    return pack("uncertainties", rows | {"first_id": state["first_id"] + begin - start})
