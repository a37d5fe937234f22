"""Packing on the cluster: three passes in pieces, each resumable. The same rows give the same bytes on any cluster."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.packing.noise import ConfusedClasses, NoiseList, parse_noise
from ldlva_dist.packing.passes.finish import finish_dataset
from ldlva_dist.packing.passes.finish_added import finish_added
from ldlva_dist.packing.passes.pass1_survey import survey_name, survey_partition
from ldlva_dist.packing.passes.pass2_order import ORDER, Order, order_rows, read_order
from ldlva_dist.packing.passes.pass3_write import placed_name, write_task
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.stage import Stage, stage_of
from ldlva_dist.packing.sources.rows import Partition, Source
from ldlva_dist.runtime.pieces import run_pieces

FORMAT = 3
BLOCK = 4096
GET_TIMEOUT_S = 60.0
Progress = Callable[[str, int, int], None]
"""Called with what is done, and rows done of all rows."""


@dataclass(frozen=True)
class Packed:
    """What was packed, how many rows were not, by reason, and what else is to be said of them."""

    info: DatasetInfo
    reasons: Mapping[str, int]
    notes: Sequence[str] = ()


def pack(
    source: Source,
    output: str,
    settings: PackSettings,
    *,
    partitions: Sequence[Partition] | None = None,
    progress: Progress = lambda what, done, total: None,
    parent: Dataset | None = None,
) -> Packed:
    """Write a data set on the cluster that Ray is connected to; it appears complete or not at all.

    An interrupted packing is resumed when it is started again with the same rows and settings. After an error of
    the data nothing is left.

    Args:
        source: Where the rows come from.
        output: Folder or s3:// prefix that becomes the data set.
        settings: How the rows become one.
        partitions: Those of the source, where they are known.
        progress: Called with what is done.
        parent: Data set that the rows are added to: ``output`` becomes a version of it. None packs a new one.

    Raises:
        SettingError: for classes, noise or columns that do not fit the data.
        DataError: for data with too many bad rows.
        ClusterError: for a store or cluster that failed; what was done is kept.
    """
    partitions = list(source.partitions() if partitions is None else partitions)
    if not partitions:
        raise DataError("the data set is empty: its tables hold no rows")
    stage = stage_of(output)
    content = "" if parent is None else parent.info.content_hash
    done = stage.begin(source_fingerprint(source, partitions, settings) + content)
    blocks = [ray.put(partitions[first : first + BLOCK]) for first in range(0, len(partitions), BLOCK)]
    work = _Work(stage, source, settings, blocks, parent)
    try:
        order = _run(work, [partition.rows for partition in partitions], done, progress)
        stage.publish()
    except (DataError, SettingError):
        stage.discard()
        raise
    except ClusterError as error:
        raise ClusterError(f"{error}; {stage.kept()}") from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted; {stage.kept()}") from error
    return Packed(Dataset.open(output).info, order.reasons, order.notes)


@dataclass(frozen=True)
class _Work:
    """What the tasks do; sent to them."""

    stage: Stage
    source: Source
    settings: PackSettings
    blocks: Sequence[ray.ObjectRef[list[Partition]]]
    """All partitions: sent once a node, not once a task."""
    parent: Dataset | None

    def survey(self, number: int) -> None:
        """First pass, one partition."""
        partition = self._partitions(number, number + 1)[number]
        survey_partition(self.stage, self.source, partition, self.settings, number)

    def order(self, _: int) -> None:
        """Second pass."""
        order_rows(self.stage, self._all(), self.settings, self.parent)

    def write(self, number: int) -> None:
        """Third pass, one task."""
        first, stop = read_order(self.stage).tasks[number]
        write_task(self.stage, self.source, self._partitions(first, stop), self.settings, number)

    def finish(self, _: int) -> None:
        """The last files."""
        what = self.stage, self._all(), self.settings, read_order(self.stage), self.source.describe()
        if self.parent is None:
            finish_dataset(*what)
        else:
            finish_added(*what, self.parent)

    def _partitions(self, first: int, stop: int) -> dict[int, Partition]:
        numbers = range(first // BLOCK, (stop - 1) // BLOCK + 1)
        blocks = {number: ray.get(self.blocks[number], timeout=GET_TIMEOUT_S) for number in numbers}
        return {number: blocks[number // BLOCK][number % BLOCK] for number in range(first, stop)}

    def _all(self) -> list[Partition]:
        return [partition for block in ray.get(list(self.blocks), timeout=GET_TIMEOUT_S) for partition in block]


def _run(work: _Work, rows: Sequence[int], done: frozenset[str], progress: Progress) -> Order:
    """All passes; returns what the second one found."""
    _each(work.survey, survey_name, rows, done, partial(progress, "verifying"))
    if ORDER not in done:
        list(run_pieces(work.order, [0]))
    order = read_order(work.stage)
    _each(work.write, placed_name, order.rows, done, partial(progress, "writing"))
    list(run_pieces(work.finish, [0]))
    return order


def _each(
    work: Callable[[int], None],
    name: Callable[[int], str],
    rows: Sequence[int],
    done: frozenset[str],
    progress: Callable[[int, int], None],
) -> None:
    """The pieces that are not done, of ``rows`` rows each."""
    todo = [number for number in range(len(rows)) if name(number) not in done]
    total = sum(rows)
    ready = total - sum(rows[number] for number in todo)
    progress(ready, total)
    for number, _ in run_pieces(work, todo):
        ready += rows[number]
        progress(ready, total)


def source_fingerprint(source: Source, partitions: Sequence[Partition], settings: PackSettings) -> str:
    """What must be the same for an interrupted packing to be resumed."""
    facts: list[Any] = [FORMAT, repr(source), dataclasses.asdict(settings)]
    facts += [_stamp(place) for place in dict.fromkeys(partition.place for partition in partitions)]
    facts += [dataclasses.astuple(partition) for partition in partitions]
    noise = parse_noise(settings.noise) if settings.noise else None
    if isinstance(noise, NoiseList | ConfusedClasses):
        facts.append(hashlib.sha256(storage.read_bytes(noise.uri)).hexdigest())
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _stamp(place: str) -> tuple[str, int | None, str]:
    """Size and time of the table that rows come from; a place may be no file."""
    if not place:
        return place, None, ""
    filesystem, path = storage.resolve(place)
    info = filesystem.get_file_info(path)
    return place, info.size, str(info.mtime)
