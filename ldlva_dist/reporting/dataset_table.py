"""The table of a packed data set."""

from collections.abc import Mapping

from rich.table import Table

from ldlva_dist.dataset.manifest import SPLITS, DatasetInfo
from ldlva_dist.packing.passes.pass1_survey import is_outside_budget
from ldlva_dist.packing.sources.rows import LEFT_OUT
from ldlva_dist.records.console import DataConsole


def print_dataset(
    info: DatasetInfo, place: str, *, reasons: Mapping[str, int], console: DataConsole | None = None
) -> None:
    """What a packed data set holds: samples of each class in each split, shards, what is not packed and why."""
    table = Table(title=f"{info.name}: {place}", title_justify="left")
    for heading in ("", *SPLITS):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for index, name in enumerate(info.class_names):
        table.add_row(name, *(str(info.class_counts[split][index]) for split in SPLITS))
    table.add_section()
    shards = [info.shards_of(split) for split in SPLITS]
    table.add_row("rows", *(str(info.splits[split].rows) for split in SPLITS))
    table.add_row("shards", *(str(len(part)) for part in shards))
    table.add_row("MB", *(f"{sum(shard.bytes for shard in part) / 1e6:.1f}" for part in shards))
    va = "present" if info.has_valence_arousal else "absent: neighbours only in feature space (--index.space feature)"
    bad = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if not is_outside_budget(reason))
    console = console or DataConsole()
    console.print(table)
    console.print(f"valence-arousal: {va}{', standardised' if info.va_transform else ''}")
    console.print(f"rejected: {info.num_rejected}{f' ({bad})' if bad else ''}; no label: {info.num_unlabelled}")
    for reason, count in reasons.items():
        if reason.startswith(LEFT_OUT):
            console.print(f"{reason}: {count}")
    if info.flip_share:
        console.print(f"labels known to be wrong: {info.flip_share:.1%} of those to train on")
