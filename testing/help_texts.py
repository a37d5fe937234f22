"""What the jobs print for ``--help``, for the reference pages and for the test of the papers."""

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from unittest.mock import patch

from ldlva_dist.commands.program import find_command

ROOT = Path(__file__).parents[1]
SCRIPTS = (*sorted((ROOT / "jobs").glob("*.py")), *(ROOT / "cluster" / name for name in ("drain.py", "serve.py")))
_COMMANDS = re.compile(r"^usage: [^{\n]*\{([a-z0-9,-]+)\}", re.MULTILINE)


def help_texts(columns: int = 100) -> Iterator[tuple[str, str]]:
    """Pairs of a command, such as ``jobs/make_shards.py folder``, and its help in lines of ``columns`` characters."""
    for script in SCRIPTS:
        name = str(script.relative_to(ROOT))
        main = find_command(script.stem) if script.parent.name == "jobs" else _main_of(script)
        text = _printed(main, [name, "--help"], columns)
        yield name, text
        found = _COMMANDS.search(text)
        for command in found[1].split(",") if found else ():
            yield f"{name} {command}", _printed(main, [name, command, "--help"], columns)


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
