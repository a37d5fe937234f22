"""Everything that learns or counts, in one object, saved and restored as one.

A checkpoint is plain files: ``model.safetensors`` (whole), ``optimizer.safetensors`` (whole), ``table/`` and ``bank/``
(parts by id range), ``state.json``, ``config.json``. Every file loads on any number of ranks; none is a pickle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist
from safetensors.torch import load, save_file

from ldlva_dist.config import RunConfig, from_json, to_json
from ldlva_dist.data import storage
from ldlva_dist.data.manifest import DatasetInfo
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.training.engine import Engine
from ldlva_dist.uncertainty import UncertaintyTable

FORMAT_VERSION = 1


class BankSnapshots(Protocol):
    """The part of the neighbour client that a checkpoint needs."""

    num_shards: int

    def begin(self, step: int, parts: list[bytes]) -> None:
        """Start every shard at ``step`` with the rows of the saved parts; none means an empty bank."""
        ...

    def snapshot(self, step: int, shard_indices: list[int]) -> dict[str, bytes]:
        """The named parts of some shards, as of ``step``."""
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

    def save(self, folder: Path) -> None:
        """Write this rank's files of the checkpoint into ``folder``."""
        rank, world_size = dist.get_rank(), dist.get_world_size()
        self.engine.average_buffers()
        weights, moments = self.engine.model_state(), self.engine.optimizer_state()
        if rank == 0:
            save_file(weights, folder / "model.safetensors")
            save_file(moments, folder / "optimizer.safetensors")
            (folder / "config.json").write_text(to_json(self.config))
            (folder / "state.json").write_text(json.dumps(self._facts(), indent=2) + "\n")
        if self.table:
            (folder / "table").mkdir()
            save_file(self.table.state(), folder / "table" / f"part-{rank:05d}.safetensors")
        if self.bank:
            (folder / "bank").mkdir()
            shards = list(range(rank, self.bank.num_shards, world_size))
            for name, part in self.bank.snapshot(self.step, shards).items():
                (folder / "bank" / name).write_bytes(part)

    def restore(self, checkpoint_uri: str | None) -> None:
        """Take step, optimiser, table and bank from a checkpoint; without one, start the bank empty.

        The weights were loaded before the engine was built (:func:`read_weights`).
        """
        if checkpoint_uri:
            self.step = read_facts(checkpoint_uri, self.info)["step"]
            moments = load(storage.read_bytes(storage.join(checkpoint_uri, "optimizer.safetensors")))
            self.engine.load_optimizer_state(moments)
            if self.table:
                self.table.restore([load(part) for part in read_parts(checkpoint_uri, "table")])
        if self.bank:
            if dist.get_rank() == 0:
                self.bank.begin(self.step, read_parts(checkpoint_uri, "bank") if checkpoint_uri else [])
            dist.barrier()

    def _facts(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "step": self.step,
            "world_size": dist.get_world_size(),
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
        DataError: for a checkpoint of a format this version does not know.
    """
    facts = json.loads(storage.read_bytes(storage.join(checkpoint_uri, "state.json")))
    if facts["format_version"] != FORMAT_VERSION:
        raise DataError(f"{checkpoint_uri} has format_version {facts['format_version']}, this reads {FORMAT_VERSION}")
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


def has_rows_of(facts: Mapping[str, Any], info: DatasetInfo) -> bool:
    """Whether a sample's id means the same to the checkpoint with these facts and to a data set or version."""
    return facts.get("rows_hash", facts["content_hash"]) == info.rows_hash


def last_checkpoint(run_uri: str) -> str | None:
    """The newest complete checkpoint of a run; a checkpoint's own folder is returned as it is; None where none is."""
    if storage.exists(storage.join(run_uri, "state.json")):
        return run_uri
    steps = [name for name in storage.list_folder(run_uri) if name.startswith("step-")]
    whole = [name for name in steps if storage.exists(storage.join(run_uri, name, "state.json"))]
    return storage.join(run_uri, max(whole)) if whole else None


def read_config(checkpoint_uri: str) -> RunConfig:
    """The settings a checkpoint was trained with."""
    return from_json(storage.read_bytes(storage.join(checkpoint_uri, "config.json")).decode())


def read_weights(checkpoint_uri: str) -> dict[str, Any]:
    """The whole model of a checkpoint."""
    return load(storage.read_bytes(storage.join(checkpoint_uri, "model.safetensors")))


def read_parts(checkpoint_uri: str, folder: str) -> list[bytes]:
    """The files of ``table/`` or ``bank/``, in id order; none where the run had none."""
    uri = storage.join(checkpoint_uri, folder)
    return [storage.read_bytes(storage.join(uri, name)) for name in storage.list_folder(uri)]
