"""What a run will take, for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ldlva_dist.records.console import DataConsole
from ldlva_dist.reporting.metrics_line import format_seconds

UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
UNKNOWN = "not probed"


def print_outlook(outlook: Mapping[str, Any], *, console: DataConsole | None = None) -> None:
    """The values of Outlook.plain, as tables: the work, the memory, and what stands in the way."""
    console = console or DataConsole()
    console.print(_work(outlook))
    console.print(_memory(outlook["memory"]))
    if outlook["problems"]:
        console.print("what does not fit", style="bold red")
    for problem in outlook["problems"]:
        console.print(Text.assemble(f"- {problem['sentence']}\n  ", ("cure:", "dim"), f" {problem['cure']}"))


def format_bytes(size: float) -> str:
    """``1.20 GB``, in powers of ten, with three digits."""
    name, unit = next(((name, unit) for name, unit in UNITS if size >= 0.9995 * unit), ("bytes", 1))
    value = size / unit
    return f"{value:,.{0 if unit == 1 or value >= 99.95 else 1 if value >= 9.995 else 2}f} {name}"


def _work(outlook: Mapping[str, Any]) -> Table:
    work, title = outlook["work"], f"{outlook['name']} on {outlook['dataset']}: {outlook['num_train']:,} samples"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False, padding=(0, 2, 0, 0))
    table.min_width = min(len(title), 80)
    for _ in range(3):
        table.add_column(overflow="fold")
    done = f", {outlook['steps_done']:,} done" if outlook["steps_done"] else ""
    table.add_row("steps", f"{work['steps']:,}", f"{outlook['epochs']:g} epochs, {work['samples']:,} samples{done}")
    if work["evaluations"]:
        table.add_row("evaluations", f"{work['evaluations']:,}", f"{work['evaluated_samples']:,} samples")
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in outlook["checkpoint_bytes"].items())
    table.add_row("checkpoint", format_bytes(outlook["checkpoint_bytes_in_all"]), parts)
    kept = f"{work['checkpoints']:,} written, {work['checkpoints_kept']} kept at most"
    if outlook["most_bytes"] > outlook["kept_bytes"]:
        kept += f"; {format_bytes(outlook['most_bytes'])} while one more is written"
    table.add_row("checkpoints", format_bytes(outlook["kept_bytes"]), kept)
    table.add_row("read per epoch", format_bytes(outlook["read_bytes_per_epoch"]), "by all workers")
    speed, start = outlook["samples_per_second"], outlook["start_seconds"]
    said = UNKNOWN if speed is None else f"{speed:,.0f}"
    table.add_row("samples/s", said, "" if speed is None else f"{outlook['probed_steps']:,} steps were tried")
    took = "" if start is None else f"{format_seconds(outlook['seconds'])}, of which the start takes {start:.0f} s"
    table.add_row("hours", _hours(outlook["seconds"]), took)
    if outlook["cost"] is not None:
        table.add_row("cost", f"{outlook['cost']:,.2f}", f"{outlook['nodes']} nodes")
    return table


def _hours(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds / 3600:,.2f}"


def _memory(roles: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE, header_style="", padding=(0, 2, 0, 0))
    for heading in ("memory of", "processes", "each", "together", ""):
        table.add_column(heading, justify="left" if heading in ("memory of", "") else "right", overflow="fold")
    for role in roles:
        together = format_bytes(role["processes"] * role["each"])
        table.add_row(role["name"], str(role["processes"]), format_bytes(role["each"]), together, role["how"])
    return table
