"""Everything that learns or counts, in one object, saved and restored as one.

A checkpoint is plain files: ``model.safetensors`` (whole), ``optimizer.safetensors`` (whole), ``table/`` and ``bank/``
(parts by id range), ``config.json``, ``classes.json`` and the ``state.json`` that makes it one
(checkpoint/state_file.py). Every file loads on any number of ranks; none is a pickle.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch.distributed as dist

from ldlva_dist.checkpoint.checkpoint import CONFIG, WEIGHTS, Checkpoint
from ldlva_dist.checkpoint.saver import Elsewhere
from ldlva_dist.checkpoint.table_files import TABLE_FOLDER, table_files
from ldlva_dist.checkpoint.tensors import pack_tensors
from ldlva_dist.config import RunConfig, to_json
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.method.uncertainty_table import UncertaintyTable
from ldlva_dist.storage.checksums import Entry, Files
from ldlva_dist.stream.plan import PLAN_VERSION
from ldlva_dist.training.engine import Engine

OPTIMIZER = "optimizer.safetensors"


class BankSnapshots(Protocol):
    """The part of a way to the bank that a checkpoint needs."""

    num_shards: int

    def begin(self, step: int, files: Files, limit_s: float, known_rows: int | None = None) -> None:
        """Start every shard at ``step`` with its rows of the saved files; none means an empty bank. Collective.

        With ``known_rows`` the files are of another run, and the ids below it are taken over.
        """
        ...

    def take_snapshot(self, step: int, shard_indices: list[int]) -> None:
        """Let some shards keep their rows as of ``step``."""
        ...

    def write_snapshot(
        self, step: int, shard_indices: list[int], uri: str, limit_s: float
    ) -> Callable[[], Mapping[str, Entry]]:
        """Let some shards write the rows that they keep; what is returned waits for the files' entries."""
        ...


@dataclass
class TrainState:
    """The state of a run on one rank. Every method is a collective."""

    config: RunConfig
    info: DatasetInfo
    engine: Engine
    table: UncertaintyTable | None
    bank: BankSnapshots | None
    step: int = 0
    """Steps done."""

    def settle(self) -> None:
        """Move the table's rows by what the ranks told of them in this step, if they told anything."""
        if self.table:
            self.table.settle()

    def copy(self) -> tuple[dict[str, Callable[[], bytes]], Elsewhere | None]:
        """This rank's files of a checkpoint, apart from what continues to learn; each gives its bytes when called.

        A file of values that are not finite gives a DataError instead. The second value lets this rank's share of the
        bank's shards write what they hold (checkpoint/saver.py).
        """
        rank, world_size = dist.get_rank(), dist.get_world_size()
        self.engine.average_buffers()
        weights, moments = self.engine.model_state(), self.engine.optimizer_state()
        files: dict[str, Callable[[], bytes]] = {}
        if rank == 0:
            files[WEIGHTS] = partial(pack_tensors, "weights", weights)
            files[OPTIMIZER] = partial(pack_tensors, "optimiser's state", moments)
            files[CONFIG] = to_json(self.config).encode
            files["classes.json"] = json.dumps(list(self.info.class_names)).encode
        if self.table:
            files |= table_files(self.table)
        if not self.bank:
            return files, None
        shards = list(range(rank, self.bank.num_shards, world_size))
        self.bank.take_snapshot(self.step, shards)
        return files, partial(self.bank.write_snapshot, self.step, shards)

    def restore(self, checkpoint: Checkpoint | None, start: Checkpoint | None = None) -> None:
        """Take step, optimiser, table and bank from a checkpoint; without one, start the bank empty.

        The weights were loaded before the engine was built (build.py). A run that begins with the checkpoint ``start``
        of another takes over table and bank of the rows that one knew; step and optimiser begin anew.
        """
        known_rows = start.known_rows(self.info) if start else None
        if checkpoint:
            checkpoint.require_data_set(self.info)
            checkpoint.require_plan(PLAN_VERSION)
            self.step, self.engine.skipped_steps = checkpoint.facts["step"], checkpoint.facts["skipped_steps"]
            self.engine.load_optimizer_state(checkpoint.read_tensors(OPTIMIZER))
            if self.table:
                checkpoint.restore_table(self.table)
        elif start and self.table and start.names(TABLE_FOLDER):
            start.restore_table(self.table, known_rows)
        if self.bank:
            saved = checkpoint or start
            files = saved.bank_files if saved else {}
            self.bank.begin(self.step, files, self.config.training.timeout_s, known_rows)
            dist.barrier()

    def facts(self) -> dict[str, Any]:
        """What ``state.json`` says of it."""
        return {
            "step": self.step,
            "plan_version": PLAN_VERSION,
            "world_size": dist.get_world_size(),
            "skipped_steps": self.engine.skipped_steps,
            "class_names": list(self.info.class_names),
            "content_hash": self.info.content_hash,
            "rows_hash": self.info.rows_hash,
            "num_train": self.info.num_train,
        }
