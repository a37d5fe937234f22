"""The table of what is well, what is not, and the cures."""

from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

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


def print_findings(findings: Sequence[FindingLike], *, console: Console | None = None) -> None:
    """Area by area; a cure stands below what it cures."""
    table = Table(box=box.SIMPLE, header_style="", padding=(0, 1, 0, 0))
    for heading in ("", "", "found"):
        table.add_column(heading, overflow="fold")
    areas = list(dict.fromkeys(finding.area for finding in findings))
    for finding in sorted(findings, key=lambda finding: areas.index(finding.area)):
        style = STYLES[finding.level]
        cure = f"\n[dim]cure:[/dim] {escape(finding.cure)}" if finding.cure else ""
        check = f"{finding.area}: {finding.check}"
        table.add_row(f"[{style}]{finding.level}[/{style}]", escape(check), escape(finding.found) + cure)
    (console or Console(highlight=False, soft_wrap=False)).print(table)
