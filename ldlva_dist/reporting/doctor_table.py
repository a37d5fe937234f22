"""The table of what is well, what is not, and the cures."""

from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.table import Table
from rich.text import Text

from ldlva_dist.records.console import DataConsole

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


class FindingLike(Protocol):
    """What the table needs of a finding."""

    @property
    def area(self) -> str: ...
    @property
    def check(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def found(self) -> str: ...
    @property
    def cure(self) -> str: ...


def print_findings(findings: Sequence[FindingLike], *, console: DataConsole | None = None) -> None:
    """Area by area; a cure stands below what it cures."""
    table = Table(box=box.SIMPLE, header_style="", padding=(0, 1, 0, 0))
    for heading in ("", "", "found"):
        table.add_column(heading, overflow="fold")
    areas = list(dict.fromkeys(finding.area for finding in findings))
    for finding in sorted(findings, key=lambda finding: areas.index(finding.area)):
        cure = ["\n", ("cure:", "dim"), f" {finding.cure}"] if finding.cure else []
        level = Text(finding.level, style=STYLES[finding.level])
        table.add_row(level, f"{finding.area}: {finding.check}", Text.assemble(finding.found, *cure))
    (console or DataConsole()).print(table)
