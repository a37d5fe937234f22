"""Print today's headline of every claim: the first table row of each page in results/. `make results`."""

import textwrap
from itertools import zip_longest
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
WIDTHS = {"page": 14, "today": 52, "goal": 26, "reached": 22, "date": 10}
COLUMNS = ("today", "goal", "reached", "command", "machine", "date")


def main() -> None:
    """Print one table, a page a row."""
    print_row({name: name for name in WIDTHS})
    print_row({name: "-" * width for name, width in WIDTHS.items()})
    for page in sorted(RESULTS.glob("*.md")):
        if page.name != "README.md":
            print_row({"page": page.stem, **headline(page)})


def headline(page: Path) -> dict[str, str]:
    """The cells of a page's first table, by column.

    Raises:
        ValueError: if the page does not begin with a table of the columns that every page has, and one row.
    """
    rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    header, _, first = (cells(row) for row in rows[:3])
    if tuple(header) != COLUMNS:
        raise ValueError(f"{page.name} must begin with a table of the columns {COLUMNS}, got {header}")
    return dict(zip(header, first, strict=True))


def cells(row: str) -> list[str]:
    """The cells of a row of a markdown table, without what makes them bold."""
    return [cell.strip().replace("**", "") for cell in row.strip().strip("|").split("|")]


def print_row(row: dict[str, str]) -> None:
    """Print a row, each cell wrapped to its column."""
    columns = [textwrap.wrap(row[name], width) or [""] for name, width in WIDTHS.items()]
    for parts in zip_longest(*columns, fillvalue=""):
        padded = (part.ljust(width) for part, width in zip(parts, WIDTHS.values(), strict=True))
        print("  ".join(padded).rstrip())


if __name__ == "__main__":
    main()
