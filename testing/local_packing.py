"""Packing in one process, without a cluster: what the tasks do, one after the other."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ldlva_dist.packing.passes.finish import finish_dataset
from ldlva_dist.packing.passes.pass1_survey import survey_partition
from ldlva_dist.packing.passes.pass2_order import Order, order_rows
from ldlva_dist.packing.passes.pass3_write import write_task
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.stage import stage_of
from ldlva_dist.packing.sources.rows import Source


def pack_here(source: Source, output: Path, settings: PackSettings, *, backwards: bool = False) -> Order:
    """Pack; ``backwards`` runs the tasks in the other order, as a cluster may."""
    partitions = list(source.partitions())
    stage, step = stage_of(str(output)), -1 if backwards else 1
    stage.begin("test")
    for number in range(len(partitions))[::step]:
        survey_partition(stage, source, partitions[number], settings, number)
    order = order_rows(stage, partitions, settings)
    for number in range(len(order.tasks))[::step]:
        first, stop = order.tasks[number]
        write_task(stage, source, {place: partitions[place] for place in range(first, stop)}, settings, number)
    finish_dataset(stage, partitions, settings, order, source.describe())
    stage.publish()
    return order


def manifest(output: Path) -> list[dict[str, Any]]:
    """The rows that were packed."""
    return pq.read_table(output / "manifest.parquet").to_pylist()


def rejected(output: Path) -> list[dict[str, Any]]:
    """The rows that were not."""
    return pq.read_table(output / "rejected.parquet").to_pylist()
