"""Jobs that start no cluster, run in the process of a test."""

import runpy
import sys
from pathlib import Path

JOBS = Path(__file__).parents[1] / "jobs"


def run_inline(name: str, *arguments: str) -> int:
    """The exit code of a job, such as ``report.py``, with these arguments."""
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        runpy.run_path(str(JOBS / name), run_name="__main__")
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        sys.argv = before
    return 0
