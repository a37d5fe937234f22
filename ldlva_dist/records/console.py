"""What people's data looks like on a terminal: as it is, never as markup, and nothing in it acts on the terminal.

All that a job prints passes through here: ruff forbids ``print`` and rich's own Console elsewhere.
"""

import sys
import unicodedata
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType  # noqa: TID251
from rich.segment import Segment
from rich.text import Text

KEPT = "\n\t"
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They let a name show its letters, and those of the line around it, in another order than they stand."""
HIDDEN = ("Cc", "Cs", "Zl", "Zp")
"""Control characters, halves of characters (names of files that are no UTF-8), separators of lines and paragraphs."""


def visible(text: str) -> str:
    """The text, with all that would act on a terminal written as Python's repr writes it."""
    if text.isprintable():
        return text
    return "".join(character if _is_plain(character) else ascii(character)[1:-1] for character in text)


def say(line: str, *, file: IO[str] | None = None) -> None:
    """Print a line at once, also where the output is a file."""
    print(visible(line), file=file or sys.stdout, flush=True)


class DataConsole(Console):
    """A rich console to which text is text: no markup, no emoji codes, no highlighting, no control characters."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make text visible before it is measured, so that columns fit."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Make visible what comes by another way, such as a Text made of data."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def _is_plain(character: str) -> bool:
    return character in KEPT or (unicodedata.category(character) not in HIDDEN and character not in BIDI)
