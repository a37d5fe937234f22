"""Checkpoints are uploaded while training goes on, one at a time.

A save copies the state and returns. Each rank uploads its files from a thread of its own, and the bank's shards theirs;
when all have, which the ranks learn in the same step (rank_votes.py), rank 0 writes the list that makes the files a
checkpoint.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from ldlva_dist.checkpoint.saved_files import (
    SavedFiles,
    checkpoint_steps,
    checkpoint_uri,
    discard_checkpoint,
    write_saved_file,
)
from ldlva_dist.checkpoint.state_file import write_state
from ldlva_dist.errors import ClusterError, DataError
from ldlva_dist.storage.checksums import Entry

FilesToSave = Mapping[str, Callable[[], bytes]]
"""Names in the checkpoint, and what gives their bytes."""
Elsewhere = Callable[[str, float], Callable[[], Mapping[str, Entry]]]
"""Given the folder and a limit in seconds, lets others write files into it; what it returns waits for their entries."""
METRIC = "holdout_accuracy"


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """One rank's part of a checkpoint on its way."""

    uri: str
    step: int
    facts: Mapping[str, Any]
    files: Future[dict[str, Entry]]
    began: float


class Saver:
    """One rank's hand in the checkpoints of a run. Every method is a collective, ``uploading`` excepted."""

    def __init__(
        self, run_uri: str, *, num_to_keep: int, limit_s: float, require_lease: Callable[[], None] = lambda: None
    ) -> None:
        """Checkpoints of earlier starts of the run count too; an upload may take ``limit_s``.

        ``require_lease`` raises where the folder is another job's by now, in which nothing is finished or deleted.
        """
        self._run_uri, self._num_to_keep, self._limit_s = run_uri, num_to_keep, limit_s
        self._require_lease = require_lease
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._upload: _Upload | None = None
        self.took_s = 0.0
        """How long the last checkpoint took from its beginning to the last of its files, seconds."""
        self._accuracies: dict[int, float | None] = {}
        if dist.get_rank() == 0:
            self._accuracies = _accuracies_there(run_uri)

    @property
    def in_flight(self) -> bool:
        """Whether a checkpoint is begun and not finished; the same on all ranks."""
        return self._upload is not None

    @property
    def uploading(self) -> bool:
        """Whether this rank's files are not all there yet; ClusterError if that takes longer than the limit."""
        if self._upload is None or self._upload.files.done():
            return False
        if time.monotonic() - self._upload.began > self._limit_s:
            raise ClusterError(
                f"rank {dist.get_rank()} did not upload its files of {self._upload.uri} in {self._limit_s:g} s"
            )
        return True

    def begin(
        self, step: int, files: FilesToSave, facts: Mapping[str, Any], elsewhere: Elsewhere | None = None
    ) -> None:
        """Upload files of the state after ``step`` steps; one checkpoint must be finished before the next begins."""
        assert self._upload is None, "one checkpoint at a time"
        uri = checkpoint_uri(self._run_uri, step)
        future = self._thread.submit(_upload, uri, dict(files), elsewhere, self._limit_s)
        self._upload = _Upload(uri=uri, step=step, facts=facts, files=future, began=time.monotonic())

    def finish(self) -> Mapping[str, Any]:
        """Wait for all ranks' files and make the checkpoint of them; returns its facts.

        Raises:
            ClusterError: if this rank's upload failed or took longer than the limit.
            DataError: if what it should write is not finite.
            RunLost: if the run's folder is not this job's any more.
        """
        assert self._upload is not None, "no checkpoint was begun"
        upload, self._upload = self._upload, None
        left = max(0.0, upload.began + self._limit_s - time.monotonic())
        try:
            mine = upload.files.result(timeout=left)
        except TimeoutError as error:
            raise ClusterError(
                f"rank {dist.get_rank()} did not upload its files of {upload.uri} in {self._limit_s:g} s"
            ) from error
        parts: list[Any] = [None] * dist.get_world_size()
        dist.gather_object(mine, parts if dist.get_rank() == 0 else None)
        self.took_s = time.monotonic() - upload.began
        if dist.get_rank() == 0:
            self._require_lease()
            write_state(upload.uri, upload.facts, {name: entry for part in parts for name, entry in part.items()})
            self._accuracies[upload.step] = upload.facts["metrics"].get(METRIC)
            self._drop_old(upload.step)
        return upload.facts

    def _drop_old(self, newest: int) -> None:
        """Delete what is not worth keeping, and what earlier starts left unfinished."""
        kept = worth_keeping(self._accuracies, self._num_to_keep)
        self._accuracies = {step: accuracy for step, accuracy in self._accuracies.items() if step in kept}
        for step in checkpoint_steps(self._run_uri):
            if step not in kept and step < newest:
                discard_checkpoint(checkpoint_uri(self._run_uri, step))


def worth_keeping(accuracies: Mapping[int, float | None], num_to_keep: int) -> set[int]:
    """Of a run's finished checkpoints (step to holdout accuracy): the newest ones and the best; a tie to the later."""
    best = [(accuracy, step) for step, accuracy in accuracies.items() if accuracy is not None]
    return set(sorted(accuracies)[-num_to_keep:]) | ({max(best)[1]} if best else set())


def _accuracies_there(run_uri: str) -> dict[int, float | None]:
    accuracies = {}
    for step in checkpoint_steps(run_uri):
        with suppress(DataError):  # unfinished or damaged: not worth keeping
            accuracies[step] = SavedFiles.open(checkpoint_uri(run_uri, step)).facts["metrics"].get(METRIC)
    return accuracies


def _upload(
    uri: str, files: dict[str, Callable[[], bytes]], elsewhere: Elsewhere | None, limit_s: float
) -> dict[str, Entry]:
    wait = elsewhere(uri, limit_s) if elsewhere else dict[str, Entry]
    entries = {}
    while files:
        name, content = files.popitem()  # one file after the other, so that each one's memory goes with it
        entries[name] = write_saved_file(uri, name, content())
    return entries | dict(wait())
