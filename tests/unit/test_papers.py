"""What the papers say of files, options and links is there: README, docs/, results/, docstrings and ``--help``."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from testing.help_texts import help_texts

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").glob("*.md")])
NAMED = re.compile(r"(?<![\w/.*:{-])((?:[\w.-]+/)*[\w-]+\.(?:py|sh|yaml|md))(?![\w*/])")
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
COMMAND = re.compile(r"(?:python )?((?:jobs|cluster)/\w+\.py)([^`\n]*)")
WRITTEN = {"MODEL.md", "NAME.md", "data.yaml", "folds.md"}
"""Files that jobs write, or that users have."""
OPTIONS_OF = {
    "jobs/plan.py": ("jobs/train.py",),
    "jobs/experiment.py": ("jobs/train.py",),
    "jobs/audit.py": ("jobs/train.py", "jobs/make_shards.py folder", "jobs/make_shards.py parquet"),
}
"""Jobs whose options a job takes besides its own."""
FOLDERS = ("ldlva_dist", "jobs", "cluster", "bench", "testing")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@cache
def files() -> frozenset[str]:
    """Every file of the checkout, by its path from the root and by each end of it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [path.split("/") for path in listed.stdout.splitlines() if (ROOT / path).exists()]
    return frozenset("/".join(parts[first:]) for parts in paths for first in range(len(parts)))


@cache
def helps() -> dict[str, str]:
    return dict(help_texts())


def unknown(text: str) -> list[str]:
    """Names of files in a text that are nowhere in the checkout."""
    names = {name for name in NAMED.findall(LINK.sub("", text)) if name.rpartition("/")[2] not in WRITTEN}
    return sorted(names - files())


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def anchors(page: Path) -> set[str]:
    """What mkdocs makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_links_of_a_page_are_there(page: Path) -> None:
    text = page.read_text()
    without_history = "" if page.name == "CHANGELOG.md" or page.parent == RESULTS else text
    assert unknown(without_history) == []
    for link in LINK.findall(text):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or "{{" in target.read_text() or anchor in anchors(target), link


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_docstrings_are_there(path: Path) -> None:
    assert [name for text in docstrings(path) for name in unknown(text)] == []


def test_files_named_by_help_are_there() -> None:
    assert {command: unknown(text) for command, text in helps().items() if unknown(text)} == {}


def commands() -> Iterator[tuple[str, str, str]]:
    """(page, job, rest of the line) of every command in README and docs."""
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            for job, rest in COMMAND.findall(page.read_text().replace("\\\n", " ")):
                yield str(page.relative_to(ROOT)), job, rest.split(" #")[0]


def test_commands_of_the_pages_have_options_that_exist() -> None:
    wrong = []
    for page, job, rest in commands():
        text = "".join(helps().get(f"{job} {word}", "") for word in rest.split()[:3]) or helps()[job]
        known = text + "".join(helps()[other] for other in OPTIONS_OF.get(job, ()))
        wrong += [
            (page, f"{job} {option}")
            for option in re.findall(r"(?<=\s)--[a-z][\w.-]*", rest)
            if not re.search(rf"{re.escape(option)}\b(?!-)", known) and option not in ("--help", "--config")
        ]
    assert wrong == []


def test_the_readme_is_short_and_names_the_test_command_of_ci() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 120
    assert "make test" in readme
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_page_of_results_has_a_headline_and_is_linked() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "bench.headlines"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    overview = (RESULTS / "README.md").read_text()
    pages = [page.stem for page in RESULTS.glob("*.md") if page.name != "README.md"]
    assert [page for page in pages if f"\n{page} " not in printed or f"({page}.md)" not in overview] == []


def test_every_page_is_in_the_menu_once() -> None:
    menu = re.findall(r"^ +- .*: ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    in_site = [str(page.relative_to(ROOT)).removeprefix("docs/") for page in PAGES if page != ROOT / "README.md"]
    assert sorted(menu) == sorted(in_site)


def test_every_room_is_in_the_picture_and_says_what_to_read_first_as_the_page_does() -> None:
    picture = (ROOT / "docs" / "pictures" / "rooms.svg").read_text()
    page = (ROOT / "docs" / "architecture.md").read_text()
    wrong = []
    for room in (ROOT / "ldlva_dist").glob("*/__init__.py"):
        first = re.search(r"Read `([^`]+)` first", room.read_text())
        is_said = first is None or re.search(rf"\| `{room.parent.name}/` \|.*\| `{re.escape(first[1])}` \|", page)
        if not is_said or f">{room.parent.name}<" not in picture:
            wrong.append(room.parent.name)
    assert wrong == []


def test_members_of_the_reference_page_are_in_their_modules() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    missing = []
    for block in page.split("::: ")[1:]:
        module = ROOT / block.split()[0].replace(".", "/")
        module = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        names = {getattr(node, "name", "") for node in ast.parse(module.read_text()).body}
        listed = re.search(r"members: \[(.*)\]", block)
        missing += [name for name in (listed[1].split(", ") if listed else ()) if name not in names]
    assert missing == []
