"""What must be true of a run that something happened to."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.checkpoint.saved_files import SavedFiles, checkpoint_uris, newest_finished
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import DataError
from ldlva_dist.records.ids_log import read_ids
from ldlva_dist.storage import s3
from ldlva_dist.training.inputs import make_plan
from testing.exactly_once import assert_exactly_once
from testing.tiny_runs import losses, table

BELONGS = re.compile(
    r"(config|outcome)\.json|metrics\.jsonl|tensorboard/[^/]+|(ids|history)/step-\d{8}-rank-\d{5}\.parquet|step-\d{8}/.+"
    r"|\.validate_storage_marker|checkpoint_manager_snapshot\.json"  # the last two are Ray Train's
)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What a run computed."""

    losses: list[float]
    """Of every step."""
    table: NDArray[np.float32]
    """[num_train] uncertainty logits at the end."""


def numbers_of(run_uri: str) -> Numbers:
    """What a run computed that went to its end."""
    last = newest_finished(run_uri)
    assert last is not None, "a run that ended has a checkpoint"
    return Numbers(losses=losses(run_uri), table=table(last))


def find_faults(config: RunConfig, run_uri: str, reference: Numbers) -> list[str]:
    """One sentence for each thing that is not as in a run that nothing happened to."""
    found = []
    plan = make_plan(config, tuple(shard.rows for shard in Dataset.open(config.data.dataset).info.shards_of("train")))
    try:
        assert_exactly_once(read_ids(run_uri), plan, plan.steps_for(config.training.epochs))
    except AssertionError as error:
        found.append(f"not exactly once: {str(error).strip().splitlines()[0]}")
    numbers = numbers_of(run_uri)
    if numbers.losses != reference.losses:
        pairs = enumerate(zip(numbers.losses, reference.losses, strict=False), start=1)
        first = next((step for step, (mine, theirs) in pairs if mine != theirs), None)
        found.append(f"losses differ from step {first} on, {len(numbers.losses)} of {len(reference.losses)} steps")
    if not np.array_equal(numbers.table, reference.table):
        found.append(f"the table differs by {np.abs(numbers.table - reference.table).max():.2g}")
    return found + _leftovers(run_uri, config.training.num_to_keep)


def _leftovers(run_uri: str, num_to_keep: int) -> list[str]:
    """Files in the run's folder that should not be there, and checkpoints that are not whole."""
    files = _files(run_uri)
    found = [f"left over: {name}" for name in files if not BELONGS.fullmatch(name)]
    uris = checkpoint_uris(run_uri)
    if len(uris) > num_to_keep + 1:  # the best besides
        found.append(f"{len(uris)} checkpoints were kept")
    for uri in uris:
        folder = uri.rsplit("/", 1)[-1]
        there = {name.removeprefix(f"{folder}/") for name in files if name.startswith(f"{folder}/")}
        try:
            saved = SavedFiles.open(uri)
            for name in saved.names():
                saved.check(name)
            found += [f"left over: {folder}/{name}" for name in sorted(there - set(saved.names()) - {"state.json"})]
        except DataError as error:
            found.append(str(error))
    return found


def _files(uri: str) -> list[str]:
    """All files below a folder, by their path in it."""
    if storage.is_remote(uri):
        return [name for name, _ in s3.walk(uri)]
    return sorted(str(path.relative_to(uri)) for path in Path(uri).rglob("*") if path.is_file())
