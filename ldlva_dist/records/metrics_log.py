"""A run's metrics.jsonl; what is added to it goes to the run's tracker too."""

import json
import math
import os
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import IO, Any

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError, DataError, RunLost
from ldlva_dist.records.stored_lines import StoredLines, read_files
from ldlva_dist.records.trackers import Tracker
from ldlva_dist.values.typed_json import parse_object

FILE = "metrics.jsonl"
REMOTE_FLUSH_S = 20.0


class MetricsLog:
    """One JSON object a line, in step order; a run that resumes continues the same file.

    A local file has every line at once. An object store cannot append: there lines come with :meth:`flush`, which
    :meth:`add` calls at most every 20 seconds, and only once the new lines are a share of the old ones. What is written
    for a line does not grow with their number (:mod:`ldlva_dist.records.stored_lines`).
    """

    def __init__(self, folder_uri: str, keep_until_step: int, tracker: Tracker | None = None) -> None:
        """Open the log of a run that resumes at ``keep_until_step``: earlier lines stay, the others are dropped."""
        self._uri = storage.join(folder_uri, FILE)
        kept = [line for line in read_metrics(folder_uri) if line["step"] < keep_until_step]
        self.last_step = kept[-1]["step"] if kept else 0
        """Step of the last line that stayed; 0 if there is none."""
        stored = StoredLines(folder_uri, FILE, [json.dumps(line) for line in kept])
        self._stored = stored if storage.is_remote(folder_uri) else None
        self._flushed_at = time.monotonic()
        self._file: IO[str] | None = None
        self._tracker = tracker
        if self._stored is None:
            self._file = open(storage.resolve(self._uri)[1], "a", encoding="utf-8")  # noqa: SIM115

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Append one line; its ``step`` must be there.

        Raises:
            ClusterError: where the disk does not take it.
            RunLost: where the file was deleted.
        """
        line = json.dumps(dict(metrics))
        if self._file:
            try:
                self._require_file(self._file.fileno())
                self._file.write(line + "\n")
                self._file.flush()
            except OSError as error:
                raise ClusterError(f"the store failed at {self._uri}: {error.strerror}") from error
        elif self._stored:
            self._stored.add(line)
        if self._tracker:
            self._tracker.add(metrics)
        if self._file or self._is_due():
            self.flush()

    def _is_due(self) -> bool:
        """Whether an object is to be written anew between two checkpoints."""
        return bool(self._stored and self._stored.are_many) and time.monotonic() - self._flushed_at >= REMOTE_FLUSH_S

    def _require_file(self, descriptor: int) -> None:
        """RunLost where the file has no name any more, or its name is another's: nobody would find the lines."""
        try:
            is_there = os.path.samestat(os.fstat(descriptor), os.stat(storage.resolve(self._uri)[1]))
        except (FileNotFoundError, NotADirectoryError):
            is_there = False
        if not is_there:
            raise RunLost(f"{self._uri} was deleted or replaced while the run wrote it: its lines would be lost")

    def flush(self) -> None:
        """Make every line added so far visible to others; before a checkpoint, or a resumed run lacks lines."""
        if self._stored:
            self._stored.flush()
            self._flushed_at = time.monotonic()
        if self._tracker:
            self._tracker.flush()

    def close(self) -> None:
        """Flush and close."""
        if self._stored:
            self._stored.close()
        self.flush()
        if self._file:
            self._file.close()
        if self._tracker:
            self._tracker.close()


def read_metrics(folder_uri: str) -> list[dict[str, Any]]:
    """The lines of a run's log; empty where there is none, DataError for a damaged one."""
    uri = storage.join(folder_uri, FILE)
    lines: list[dict[str, Any]] = []
    for there, data in read_files(folder_uri, FILE) if storage.exists(uri) else ():
        done = lines[-1]["step"] if lines else -math.inf
        lines += [line for line in _parsed(there, data) if line["step"] > done]
    return lines


def _parsed(uri: str, data: bytes) -> list[dict[str, Any]]:
    """The lines of a file."""
    # A process that was killed may have left half a line at the end.
    lines = [_parse(line, f"line {number} of {uri}") for number, line in enumerate(data.split(b"\n")[:-1], 1)]
    for number, (before, line) in enumerate(pairwise(lines), 2):
        if line["step"] <= before["step"]:
            raise DataError(
                f"line {number} of {uri} is damaged: its step must be above that of the line before "
                f"({before['step']}), got {line['step']}"
            )
    return lines


def _parse(line: bytes, place: str) -> dict[str, Any]:
    """One line: an object of numbers, its ``step`` among them."""
    metrics = parse_object(line, place)
    odd = next((name for name, value in metrics.items() if not (value is None or type(value) in (int, float))), None)
    if odd is not None:
        raise DataError(f"{place} is damaged: {odd:.40} must be a number or null, got {ascii(metrics[odd])[:40]}")
    if type(metrics.get("step")) is not int:
        raise DataError(f"{place} is damaged: its step must be a whole number, got {metrics.get('step')}")
    return metrics
