"""What mkdocs does besides: pages from outside docs/, links as they hold in the repository, and generated tables.

``{{ settings }}`` becomes the tables of all settings, from the dataclasses; ``{{ jobs }}`` the ``--help`` of every job.
"""

import ast
import dataclasses
import inspect
import posixpath
import re
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ldlva_dist.config import RunConfig  # noqa: E402
from testing.help_texts import help_texts  # noqa: E402

HELP_COLUMNS = 78
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "results/*")
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where the pages lie in the site, and fill in what is generated."""
    site_uri = page.file.src_uri
    in_docs = not page.file.generated_by
    folder = posixpath.dirname(posixpath.join("docs", site_uri) if in_docs else site_uri)

    def in_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(site_uri) or ".")

    markdown = LINK.sub(in_site, markdown)
    for mark, generate in (("{{ settings }}", settings_tables), ("{{ jobs }}", job_helps)):
        if mark in markdown:
            markdown = markdown.replace(mark, generate())
    return markdown


def settings_tables() -> str:
    """One table a section of :class:`RunConfig`."""
    parts = []
    sections = [(field.name, get_type_hints(RunConfig)[field.name]) for field in dataclasses.fields(RunConfig)]
    plain = {name for name, kind in sections if not dataclasses.is_dataclass(kind)}
    parts.append(table(RunConfig, "", only=plain))
    for name, kind in sections:
        if name not in plain:
            parts.append(f"## {name}\n\n{inspect.getdoc(kind)}\n\n{table(kind, f'{name}.')}")
    return "\n\n".join(parts)


def table(cls: Any, prefix: str, only: set[str] | None = None) -> str:
    """The fields of a dataclass: name, kind, default and text."""
    hints, texts = get_type_hints(cls, include_extras=True), field_texts(cls)
    lines = ["| setting | value | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        if only is None or field.name in only:
            cells = (
                f"`{prefix}{field.name}`",
                described(hints[field.name]),
                shown_default(field.default),
                texts.get(field.name, ""),
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def field_texts(cls: type) -> dict[str, str]:
    """The text under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


def described(kind: Any) -> str:
    """A setting's kind for people: choices, or a type and its range."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return " ".join([described(inner[0]), *(str(rule) for rule in inner[1:])])
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is tuple:
        return f"list of {described(inner[0])}" if inner[1:] == (...,) else f"{len(inner)} x {described(inner[0])}"
    if inner:
        return " or ".join(map(described, inner))
    return {type(None): "none", str: "text", bool: "true or false"}.get(kind, getattr(kind, "__name__", str(kind)))


def shown_default(value: Any) -> str:
    """A default as it may be written on the command line."""
    if isinstance(value, tuple):
        return f"`{' '.join(map(str, value))}`" if value else "none"
    if isinstance(value, float):
        return f"`{value:.4g}`"
    return "none" if value is None or value == "" else f"`{value}`"


def job_helps() -> str:
    """The help of every job; of those that take a run's settings what stands before them."""
    parts = []
    for command, text in help_texts(HELP_COLUMNS):
        before = re.split(r"\n[^\n]*data options", "\n".join(map(narrow, text.splitlines())))[0]
        more = "" if "--data.dataset" not in text else "\nThe other options are the [settings](settings.md) of a run.\n"
        level = "###" if " " in command else "##"
        parts.append(f"{level} {command}\n\n```text\n{before.rstrip()}\n```\n{more}")
    return "\n".join(parts)


def narrow(line: str) -> str:
    """A line of help, wrapped where tyro leaves that to the terminal."""
    return "\n".join(textwrap.wrap(line, HELP_COLUMNS)) if len(line) > HELP_COLUMNS else line
