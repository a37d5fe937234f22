"""The rows of one superstep: fetched by ranged reads, checked, decoded and augmented; bad ones replaced.

Lanes often take the two parts of one chunk: they are read by one ranged read, since each costs a store's client 1 ms.

A bad row's place is taken by the next good row of its lane's window, in the order of fetching and round and round. A
lane's window is the same on any number of ranks, and so is what takes a bad row's place. n = rows of a window.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.images import augment, decode
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.dataset.shards import cut_rows, read_apart
from ldlva_dist.dataset.stored_images import GAP_BYTES
from ldlva_dist.errors import DataError
from ldlva_dist.stream.plan import Plan, Run
from ldlva_dist.stream.quarantine import BadRow

Columns = dict[str, NDArray[Any]]
READ_THREADS = 8
READ_BYTES = 4 << 20
"""Runs that are read together are no more in all; one run may be larger."""
SPAN_BYTES = 1 << 30
"""Longest run in bytes; where the manifest has its rows farther apart, or nowhere, each row is read by itself."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings(Preparation):
    """How an image becomes a training sample; see DataConfig."""

    flip: bool
    pad: int
    erase_probability: float


@dataclass(frozen=True, kw_only=True)
class Window:
    """Encoded rows of some lanes, in the order of fetching."""

    data: list[memoryview]
    columns: Columns
    """[n] each: id, visit (how often the row came before), label, va, shard (its number), offset."""
    shard_uris: Sequence[str]
    lane_rows: int
    """Rows of each lane; lanes follow each other."""
    bad: dict[int, str] = field(default_factory=dict)
    """Fault of each bad row."""

    def good(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same rows, every bad one replaced; a lane without any good row is a DataError."""
        if not self.bad:
            return rows
        taken = np.arange(len(self.data))
        for row in self.bad:
            first = row - row % self.lane_rows
            lane = [first + (row + n) % self.lane_rows for n in range(self.lane_rows)]
            replacement = next((other for other in lane if other not in self.bad), None)
            if replacement is None:
                raise DataError(f"no row of a window of {self.lane_rows} can be read; one is {self.describe(row)}")
            taken[row] = replacement
        return taken[rows]

    def lost_lanes(self) -> NDArray[np.int64]:
        """The lanes without any good row."""
        bad_per_lane = np.bincount(np.fromiter(self.bad, dtype=np.int64) // self.lane_rows)
        return np.flatnonzero(bad_per_lane == self.lane_rows)

    def describe(self, row: int) -> BadRow:
        """A bad row, for people."""
        return BadRow(
            id=int(self.columns["id"][row]),
            shard=self.shard_uris[int(self.columns["shard"][row])],
            offset=int(self.columns["offset"][row]),
            reason=self.bad[row],
        )

    def find_undecodable(self, rows: NDArray[np.int64], channels: int) -> list[BadRow]:
        """Mark those of some rows that are no images, and return them."""
        found = []
        for row in np.unique(rows).tolist():
            try:
                decode(self.data[row], channels)
            except DataError as error:
                self.bad[row] = str(error)
                found.append(self.describe(row))
        return found


def fetch(
    plan: Plan,
    runs: Sequence[Run],
    lane_rows: int,
    shard_uris: Sequence[str],
    columns_of: Callable[[NDArray[np.int64]], Mapping[str, NDArray[Any]]],
) -> Window:
    """Read the rows that some runs give, by one ranged read for those that lie together.

    Args:
        plan: Where the runs are from.
        runs: Of all lanes, lane by lane.
        lane_rows: Rows that each lane's runs give in all.
        shard_uris: Of all training shards.
        columns_of: Columns (offset, size, checksum, label, va) of given ids.
    """
    spanned = [run.first_id + np.arange(run.rows) for run in runs]
    columns = dict(columns_of(np.concatenate(spanned)))
    first_rows = np.cumsum([0, *(run.rows for run in runs)], dtype=np.int64)[:-1]
    labels = np.split(columns["label"], first_rows[1:])
    given = [plan.rows_of(run, labels_n) for run, labels_n in zip(runs, labels, strict=True)]
    take = np.concatenate(
        [ids - run.first_id + row for run, row, (ids, _) in zip(runs, first_rows, given, strict=True)]
    )
    columns = {name: column[take] for name, column in columns.items()}
    columns["id"] = np.concatenate([ids for ids, _ in given])
    columns["visit"] = np.concatenate([visits for _, visits in given])
    columns["shard"] = np.repeat([run.shard for run in runs], [run.count for run in runs])
    ends = np.cumsum([run.count for run in runs], dtype=np.int64)[:-1]
    offsets, sizes, checksums = (np.split(columns[name], ends) for name in ("offset", "size", "checksum"))
    shards = [shard_uris[run.shard] for run in runs]
    window = Window(data=[], columns=columns, shard_uris=shard_uris, lane_rows=lane_rows)
    begins, ends = zip(*map(_span_of, offsets, sizes), strict=True)
    with ThreadPoolExecutor(max_workers=READ_THREADS) as pool:
        read: dict[int, Future[_Span | None]] = {}
        for together in read_together(shards, begins, ends):
            begin, end = min(begins[run] for run in together), max(ends[run] for run in together)
            read |= dict.fromkeys(together, pool.submit(_read, shards[together[0]], begin, end))
        # Checked here, not in the threads: they would only take the interpreter from each other.
        for run, place in enumerate(zip(shards, offsets, sizes, checksums, strict=True)):
            window.data.extend(_cut(read.pop(run).result(), *place, window))
    del columns["size"], columns["checksum"]
    return window


def read_together(shards: Sequence[str], begins: Sequence[int], ends: Sequence[int]) -> list[list[int]]:
    """The numbers of the runs that one ranged read gets; first comes the read of which a run is needed first.

    Of one shard, no more than GAP_BYTES apart, together no more than READ_BYTES; each run is bytes [begin, end) of a
    shard.
    """
    groups: list[list[int]] = []
    first = last = 0
    for run in sorted(range(len(shards)), key=lambda run: (shards[run], begins[run])):
        near = groups and shards[groups[-1][0]] == shards[run] and begins[run] <= last + GAP_BYTES
        if near and ends[run] <= first + READ_BYTES:
            groups[-1].append(run)
            last = max(last, ends[run])
        else:
            groups.append([run])
            first, last = begins[run], ends[run]
    return sorted(groups, key=min)


def finish_superstep(window: Window, rows: NDArray[np.int64], images: ImageSettings, seed: int) -> Columns:
    """id, label, va and image of some rows; one that cannot be decoded is a DataError."""
    columns = {name: window.columns[name][rows] for name in ("id", "label", "va")}
    columns["image"] = augment(
        (images.read(window.data[row]) for row in rows.tolist()),
        seed=seed,
        epochs_b=window.columns["visit"][rows],
        ids_b=columns["id"],
        pad=images.pad,
        flip=images.flip,
        erase_probability=images.erase_probability,
    )
    return columns


def _span_of(offsets_n: NDArray[np.int64], sizes_n: NDArray[np.int64]) -> tuple[int, int]:
    """The first and the last byte of a run; no bytes where its rows cannot be read together."""
    begin, end = int(offsets_n.min()), int(offsets_n.max()) + int(sizes_n.max())
    if begin < 0 or sizes_n.min() <= 0 or end - begin > SPAN_BYTES:
        return 0, 0
    return begin, int((offsets_n + sizes_n).max())


@dataclass(frozen=True)
class _Span:
    begin: int
    """Byte offset of ``data`` in the shard."""
    data: memoryview


def _read(shard_uri: str, begin: int, end: int) -> _Span | None:
    """None where the shard is missing or ends early."""
    try:
        return _Span(begin, memoryview(storage.read_range(shard_uri, begin, end - begin)))
    except DataError:
        return None


def _cut(
    span: _Span | None,
    shard_uri: str,
    offsets_n: NDArray[np.int64],
    sizes_n: NDArray[np.int64],
    checksums_n: NDArray[np.int64],
    window: Window,
) -> list[memoryview]:
    """The images of a run; where any of them is damaged each is read by itself, and the bad ones are marked."""
    if span is not None:
        try:
            return cut_rows(shard_uri, span.data[offsets_n.min() - span.begin :], offsets_n, sizes_n, checksums_n)
        except DataError:
            pass
    images = []
    for n, image in enumerate(read_apart(shard_uri, offsets_n, sizes_n, checksums_n)):
        if isinstance(image, DataError):
            window.bad[len(window.data) + n] = str(image)
        images.append(memoryview(b"") if isinstance(image, DataError) else image)
    return images
