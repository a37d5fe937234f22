"""Second pass: which rows are packed, with what label, under which id, into which shard.

One task; it holds columns of all rows, about 130 bytes a row at its peak. N = all rows, A = accepted rows.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import EXTRA, OPTIONAL, SPLITS
from ldlva_dist.packing.passes.choose import Chosen, choose_rows
from ldlva_dist.packing.passes.copies import copies_said, leaks
from ldlva_dist.packing.passes.deal import Dealt, deal
from ldlva_dist.packing.passes.held import read_held
from ldlva_dist.packing.passes.pass1_survey import is_outside_budget
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.stage import SHARDS, Stage
from ldlva_dist.packing.passes.survey_columns import READ_THREADS, Columns, Repeated, read_survey_columns
from ldlva_dist.packing.rules.budget import check_budget
from ldlva_dist.packing.rules.keys import tell_apart
from ldlva_dist.packing.rules.labels import check_labels, label_notes
from ldlva_dist.packing.rules.persons import persons_said
from ldlva_dist.packing.rules.places import Places
from ldlva_dist.packing.sources.rows import LEFT_OUT, Partition

ORDER, LATE = "order.json", "late.parquet"
A_COPY = f"{LEFT_OUT}its image stands in the test or validation part too"


def order_name(number: int) -> str:
    """What task ``number`` of the third pass is to write."""
    return f"order-{number:05d}.parquet"


@dataclass(frozen=True, kw_only=True)
class Order:
    """The outcome in a few facts (``order.json``); the rows are in the pieces ``order-NNNNN.parquet``, one a task."""

    tasks: Sequence[tuple[int, int]]
    """Partitions [first, stop) of each task of the third pass."""
    rows: Sequence[int]
    """Accepted rows of each task."""
    splits: Sequence[int]
    """Rows of each of SPLITS."""
    class_counts: Mapping[str, Sequence[int]]
    """Per split: samples of each class, as trained on."""
    optional: Sequence[str]
    """Columns of the manifest beyond those that every data set has."""
    has_valence_arousal: bool
    va_transform: Mapping[str, Sequence[float]] | None
    flip_share: float | None
    reasons: Mapping[str, int]
    """How many rows are not packed, and why."""
    notes: Sequence[str] = ()
    """Notes for the user about the rows."""

    @property
    def num_rejected(self) -> int:
        """Rows that count against the budget."""
        return sum(count for reason, count in self.reasons.items() if not is_outside_budget(reason))


def read_order(stage: Stage) -> Order:
    """What :func:`order_rows` found."""
    return Order(**stage.read_json(ORDER))


def order_rows(
    stage: Stage, partitions: Sequence[Partition], settings: PackSettings, parent: Dataset | None = None
) -> Order:
    """Decide everything, and write down for each task what it has to write.

    Args:
        stage: Where the survey lies.
        partitions: All of the source.
        settings: How the rows are packed.
        parent: Data set that they are added to; None packs a new one.

    Raises:
        DataError: for a data set that is empty, with too many bad rows, or that a noise list does not belong to.
        SettingError: for classes that do not fit the data, or columns that do not fit ``parent``.
    """
    found = read_survey_columns(stage, len(partitions))
    held = None if parent is None else read_held(parent, settings.group_columns)
    surveyed_N = found.code_N.copy()
    repeated = found.reject_duplicates()
    found.reject_missing_va()
    if settings.drop_copies:
        _leave_out_copies(found, partitions)
    places = Places(stage, found, partitions)
    check_labels(found, settings)
    if held:
        held.check_fits(found)
        held.leave_out(found, copies=settings.drop_copies)
    most = 0.0 if settings.on_bad_data == "fail" else settings.max_rejected
    check_budget(places, repeated, most, may_be_empty=held is not None)
    stage.write_piece(LATE, _late(places, surveyed_N, repeated))
    key_A = tell_apart(places, held)
    chosen = choose_rows(found, partitions, settings, held)
    held_bytes = held.part_bytes if held else {}
    dealt = deal(found.size_N[chosen.row_A], chosen.partition_A, chosen.split_A, partitions, held_bytes)
    columns = chosen.columns()
    order = Order(
        tasks=dealt.tasks,
        rows=[end - begin for begin, end in dealt.ranges],
        splits=np.bincount(chosen.split_A, minlength=len(SPLITS)).tolist(),
        class_counts=chosen.class_counts(len(settings.class_names)),
        optional=[
            *(name for name in OPTIONAL if name in found.optional or name in columns),
            *(name for name in found.optional if name.startswith(EXTRA)),
        ],
        has_valence_arousal=bool(np.isfinite(chosen.va_A2[:, 0]).any()),
        va_transform=chosen.va_transform() if settings.standardize_va else None,
        flip_share=chosen.flip_share(),
        reasons=found.counts(),
        notes=[
            *label_notes(found, chosen, settings),
            *_notes(places, repeated, chosen),
            *persons_said(places, chosen.row_A, chosen.split_A, settings.group_columns, held),
            *(held.copies_said(places, chosen.row_A, chosen.split_A) if held else ()),
        ],
    )
    stage.write_json(SHARDS, dealt.shards)
    _write_tasks(stage, found, chosen, dealt, key_A)
    stage.write_json(ORDER, asdict(order))
    return order


def _leave_out_copies(found: Columns, partitions: Sequence[Partition]) -> None:
    fine = np.flatnonzero(found.code_N < 0)
    part_P = np.array([SPLITS.index(partition.part) for partition in partitions], dtype=np.int8)
    copies_N = np.zeros(len(found.code_N), dtype=bool)
    copies_N[fine] = leaks(np.repeat(part_P, found.rows_P)[fine], found.pixels_N[fine])
    found.reject(copies_N, A_COPY)


def _notes(places: Places, repeated: Repeated, chosen: Chosen) -> list[str]:
    """Sentences on rows that stand twice and on images that do."""
    found, row_A = places.found, chosen.row_A
    said = copies_said(chosen.split_A, found.pixels_N[row_A], lambda rows_n: places.of(row_A[rows_n]))
    if len(repeated.row_D):
        again, first = places.of(np.array([repeated.row_D[0], repeated.first_D[0]]))
        said.append(f"rows that stand twice: {len(repeated.row_D)}, the first is {again}, which is {first} again")
    return said


def _late(places: Places, surveyed_N: NDArray[np.int32], repeated: Repeated) -> pa.Table:
    """Rows that only the view of all rows rejects: partition, row in it, reason."""
    found = places.found
    late = np.flatnonzero(found.code_N != surveyed_N)
    partition = found.partition_of(late)
    reasons = pa.array(found.reasons, pa.string()).take(pa.array(found.code_N[late]))
    is_repeated = pa.array(np.isin(late, repeated.row_D))
    reasons = pc.call_function("replace_with_mask", [reasons, is_repeated, places.reasons(repeated)])
    return pa.table({"partition": partition, "row": late - found.first_P[partition], "reason": reasons})


def _write_tasks(stage: Stage, found: Columns, chosen: Chosen, dealt: Dealt, key_A: pa.Array | None) -> None:
    """For each task: its rows in reading order, with the partition and the row in it, and keys that were changed."""
    table = pa.table(
        {
            "partition": chosen.partition_A,
            "row": chosen.row_A - found.first_P[chosen.partition_A],
            "shard": dealt.shard_A,
            **chosen.columns(),
            **({} if key_A is None else {"key": key_A}),
        }
    )

    def write(number: int) -> None:
        begin, end = dealt.ranges[number]
        stage.write_piece(order_name(number), table.slice(begin, end - begin))

    with ThreadPoolExecutor(READ_THREADS) as pool:
        list(pool.map(write, range(len(dealt.tasks))))
