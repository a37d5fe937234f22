"""Everything that learns or counts, in one object, saved and restored as one.

A checkpoint is plain files: ``model.safetensors`` (whole), ``optimizer.safetensors`` (whole), ``table/`` and ``bank/``
(parts by id range), ``config.json``, ``classes.json`` and the ``state.json`` that makes it one (checkpoint.py). Every
file loads on any number of ranks; none is a pickle.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch.distributed as dist

from ldlva_dist.config import RunConfig, read_back, to_json
from ldlva_dist.data.checked import Entry, Files
from ldlva_dist.data.manifest import DatasetInfo
from ldlva_dist.data.plan import PLAN_VERSION
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.models.weights_file import read_safetensors
from ldlva_dist.neighbors.snapshots import FOLDER
from ldlva_dist.training import checkpoint
from ldlva_dist.training.checkpoint import Checkpoint
from ldlva_dist.training.engine import Engine
from ldlva_dist.training.finite import pack
from ldlva_dist.training.saver import Elsewhere
from ldlva_dist.training.table_files import restore_table, table_files
from ldlva_dist.uncertainty import UncertaintyTable

WEIGHTS = "model.safetensors"


class BankSnapshots(Protocol):
    """The part of the neighbour client that a checkpoint needs."""

    num_shards: int

    def begin(self, step: int, files: Files, limit_s: float) -> None:
        """Start every shard at ``step`` with its rows of the saved files; none means an empty bank."""
        ...

    def hold(self, step: int, shard_indices: list[int]) -> None:
        """Let some shards keep their rows as of ``step``."""
        ...

    def write_held(
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

    def copy(self) -> tuple[dict[str, Callable[[], bytes]], Elsewhere | None]:
        """This rank's files of a checkpoint, apart from what goes on learning; each gives its bytes when called.

        A file of values that are not finite gives a DataError instead. The second value lets this rank's share of the
        bank's shards write what they hold (saver.py).
        """
        rank, world_size = dist.get_rank(), dist.get_world_size()
        self.engine.average_buffers()
        weights, moments = self.engine.model_state(), self.engine.optimizer_state()
        files: dict[str, Callable[[], bytes]] = {}
        if rank == 0:
            files[WEIGHTS] = partial(pack, "weights", weights)
            files["optimizer.safetensors"] = partial(pack, "optimiser's state", moments)
            files["config.json"] = to_json(self.config).encode
            files["classes.json"] = json.dumps(list(self.info.class_names)).encode
        if self.table:
            files |= table_files(self.table)
        if not self.bank:
            return files, None
        shards = list(range(rank, self.bank.num_shards, world_size))
        self.bank.hold(self.step, shards)
        return files, partial(self.bank.write_held, self.step, shards)

    def restore(self, checkpoint_uri: str | None) -> None:
        """Take step, optimiser, table and bank from a checkpoint; without one, start the bank empty.

        The weights were loaded before the engine was built (:func:`read_weights`).
        """
        if checkpoint_uri:
            saved, facts = Checkpoint(checkpoint_uri), read_facts(checkpoint_uri, self.info)
            require_same_plan(checkpoint_uri, facts)
            self.step, self.engine.skipped_steps = facts["step"], facts["skipped_steps"]
            name = "optimizer.safetensors"
            self.engine.load_optimizer_state(read_safetensors(saved.read(name), f"{saved.uri}/{name}"))
            if self.table:
                restore_table(self.table, saved)
        if self.bank:
            if dist.get_rank() == 0:
                files = Checkpoint(checkpoint_uri).files(FOLDER) if checkpoint_uri else {}
                self.bank.begin(self.step, files, self.config.training.timeout_s)
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


def read_facts(
    checkpoint_uri: str, info: DatasetInfo | None = None, *, allow_other_version: bool = False
) -> dict[str, Any]:
    """``state.json`` of a checkpoint, checked against the data set it is to be used with.

    Raises:
        SettingError: for a checkpoint of other classes, or of another data set or version unless that is allowed.
        DataError: for a damaged one, or one of a format this version does not know.
    """
    facts = Checkpoint(checkpoint_uri).facts
    if info is None:
        return facts
    if facts["class_names"] != list(info.class_names):
        raise SettingError(
            f"data.dataset must have the checkpoint's classes in its order ({', '.join(facts['class_names'])}), "
            f"got {', '.join(info.class_names)}"
        )
    if facts["content_hash"] != info.content_hash and not allow_other_version:
        raise SettingError(
            f"data.dataset must be the version the checkpoint was trained on ({facts['content_hash'][:12]}), "
            f"got {info.content_hash[:12]}; training on another version begins anew, under another name; "
            "jobs/evaluate.py judges on another version with --allow-other-version"
        )
    return facts


def require_same_plan(checkpoint_uri: str, facts: Mapping[str, Any]) -> None:
    """DataError for a checkpoint whose run dealt out the samples by other rules: its step is no place in ours."""
    if facts["plan_version"] != PLAN_VERSION:
        raise DataError(
            f"{checkpoint_uri} was trained by version {facts['plan_version']} of the plan, this program has version "
            f"{PLAN_VERSION}, which deals out the samples in another order: its run cannot go on; "
            "it can be evaluated, and another run can begin under another name"
        )


def has_rows_of(facts: Mapping[str, Any], info: DatasetInfo) -> bool:
    """Whether a sample's id means the same to the checkpoint with these facts and to a data set or version."""
    return facts.get("rows_hash", facts["content_hash"]) == info.rows_hash


def last_checkpoint(run_uri: str) -> str | None:
    """The newest finished checkpoint of a run, or of a checkpoint itself; None if there is none."""
    if checkpoint.is_finished(run_uri):
        return run_uri
    uris = (checkpoint.uri_of(run_uri, step) for step in checkpoint.steps_there(run_uri))
    return next((uri for uri in uris if checkpoint.is_finished(uri)), None)


def read_config(checkpoint_uri: str) -> RunConfig:
    """The settings a checkpoint was trained with."""
    return read_back(Checkpoint(checkpoint_uri).read("config.json"), f"{checkpoint_uri}/config.json")


def weights_crc32(checkpoint_uri: str) -> int:
    """What tells the weights of a checkpoint from those of another, which may have its name and steps."""
    return Checkpoint(checkpoint_uri).crc32(WEIGHTS)


def read_weights(checkpoint_uri: str) -> dict[str, Any]:
    """The whole model of a checkpoint."""
    return read_safetensors(Checkpoint(checkpoint_uri).read(WEIGHTS), f"{checkpoint_uri}/{WEIGHTS}")
