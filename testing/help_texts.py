"""What the jobs print for ``--help``, for the reference pages, and which command lines they take, for tests."""

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from unittest.mock import patch

from ldlva_dist.commands.program import find_command
from ldlva_dist.config.presets import PRESETS

ROOT = Path(__file__).parents[1]
SCRIPTS = (*sorted((ROOT / "jobs").glob("*.py")), *(ROOT / "cluster" / name for name in ("drain.py", "serve.py")))
_COMMANDS = re.compile(r"^usage: (?P<before>[^{\n]*)\{(?P<names>[a-z0-9,-]+)\}", re.MULTILINE)
_SOURCES = re.compile(r"^Kinds of source: (?P<names>.*)$", re.MULTILINE)
_NUMBER_OR_NAME = re.compile(r"^\W*(--[a-z0-9.-]+) (?:\{None\}\|)?(?:INT|FLOAT|\{(?!None)[^}]*\})", re.MULTILINE)


def help_texts(columns: int = 100) -> Iterator[tuple[str, str]]:
    """Pairs of a command, such as ``jobs/make_shards.py folder``, and its help in lines of ``columns`` characters."""
    for script in SCRIPTS:
        name = str(script.relative_to(ROOT))
        main = find_command(script.stem) if script.parent.name == "jobs" else _main_of(script)
        text = _printed(main, [name, "--help"], columns)
        yield name, text
        found = _COMMANDS.search(text)
        for command in found["names"].split(",") if found else ():
            yield f"{name} {command}", _printed(main, [name, command, "--help"], columns)


def command_lines(job: str, begun: Sequence[str] = ()) -> Iterator[tuple[list[str], str]]:
    """How the command lines of a job may begin, and the help that each prints: nothing, a preset, commands of commands.

    Args:
        job: Name of a script in jobs/.
        begun: The words before.
    """
    text = _printed(find_command(job), [job, *begun, "--help"], columns=100)
    yield list(begun), text
    if not begun and "PRESET [--" in text:
        preset = next(iter(PRESETS))
        yield [preset], _printed(find_command(job), [job, preset, "--help"], columns=100)
    found = _COMMANDS.search(text) or (None if begun else _SOURCES.search(text))
    if found:
        before = ["there" for word in found.groupdict().get("before", "").split() if word.isupper()]
        for command in re.split(", ?", found["names"]):
            yield from command_lines(job, [*begun, *before, command])


def wrong_value(text: str) -> list[str]:
    """The first option of a help text that takes a number or one of some names, with neither; or nothing."""
    found = _NUMBER_OR_NAME.search(text)
    return [found[1], "no-such-value"] if found else []


def _main_of(script: Path) -> Callable[[], None]:
    spec = spec_from_file_location(f"script_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)  # tyro reads the source of what is there
    with warnings.catch_warnings(action="ignore"):  # Ray Serve's own settings make dozens
        spec.loader.exec_module(module)
    return module.main


def _printed(main: Callable[[], None], argv: list[str], columns: int) -> str:
    output = io.StringIO()
    with (
        patch.object(sys, "argv", argv),
        patch.dict(os.environ, {"COLUMNS": str(columns), "NO_COLOR": "1"}),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        main()
    return output.getvalue()
