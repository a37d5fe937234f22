"""Packing in one process, without a cluster: what the tasks do, one after the other."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.packing.passes.finish import finish_dataset
from ldlva_dist.packing.passes.finish_added import finish_added
from ldlva_dist.packing.passes.pass1_survey import survey_partition
from ldlva_dist.packing.passes.pass2_order import Order, order_rows
from ldlva_dist.packing.passes.pass3_write import write_task
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.stage import stage_of
from ldlva_dist.packing.sources.rows import Source


def pack_here(
    source: Source,
    output: Path | str,
    settings: PackSettings,
    *,
    backwards: bool = False,
    parent: Dataset | None = None,
    surveyed: bool = False,
) -> Order:
    """Pack; ``backwards`` runs the tasks in the other order, as a cluster may.

    Args:
        source: Where the rows come from.
        output: New folder, or prefix of a store.
        settings: How they are packed.
        backwards: Whether the last task is done first.
        parent: Data set that the rows are added to.
        surveyed: Whether an interrupted packing has done the first pass: :func:`survey_here`.
    """
    partitions = list(source.partitions())
    stage, step = stage_of(str(output)), -1 if backwards else 1
    if not surveyed:
        survey_here(source, output, settings, backwards=backwards)
    order = order_rows(stage, partitions, settings, parent)
    for number in range(len(order.tasks))[::step]:
        first, stop = order.tasks[number]
        write_task(stage, source, {place: partitions[place] for place in range(first, stop)}, settings, number)
    what = stage, partitions, settings, order, source.describe()
    if parent is None:
        finish_dataset(*what)
    else:
        finish_added(*what, parent)
    stage.publish()
    return order


def survey_here(source: Source, output: Path | str, settings: PackSettings, *, backwards: bool = False) -> None:
    """Only the first pass, which an interrupted packing leaves."""
    partitions, stage = list(source.partitions()), stage_of(str(output))
    stage.begin("test")
    for number in range(len(partitions))[:: -1 if backwards else 1]:
        survey_partition(stage, source, partitions[number], settings, number)


def manifest(output: Path) -> list[dict[str, Any]]:
    """The rows that were packed."""
    return pq.read_table(output / "manifest.parquet").to_pylist()


def rejected(output: Path) -> list[dict[str, Any]]:
    """The rows that were not."""
    return pq.read_table(output / "rejected.parquet").to_pylist()
