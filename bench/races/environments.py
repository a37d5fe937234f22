"""Environments of their own for the packages that are raced, and what a command in them says."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.processes import ROOT

ENVIRONMENTS = ROOT / ".venv-rivals"
LIMIT_S = 1800.0


def environments(needs: Mapping[str, Sequence[str]]) -> tuple[dict[str, Path], dict[str, str]]:
    """Interpreters that have a package each, by package; and why there is none, by package.

    The first call makes them in some minutes, later ones find them.

    Args:
        needs: Packages, and what is installed before each.
    """
    pythons, missing = {}, {}
    for package, before in needs.items():
        folder = ENVIRONMENTS / package
        python, made = folder / "bin" / "python", folder / ".made"
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
        pip += ["-c", str(ROOT / "constraints.txt")]  # of both steps, or the second would bring the torch of a GPU
        steps = [[sys.executable, "-m", "venv", "--clear", str(folder)], [*pip, *before], [*pip, package]]
        why = None if made.exists() else next(filter(None, map(failure, steps)), None)
        if why:
            missing[package] = f"cannot be installed: {why}"
        else:
            made.touch()
            pythons[package] = python
    return pythons, missing


def failure(command: Sequence[str]) -> str | None:
    """The last line that a command says where it fails."""
    return said(command)[1]


def said(command: Sequence[str]) -> tuple[str, str | None]:
    """What a command prints, and the last line of its errors where it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return "", f"took more than {LIMIT_S:g} s"
    why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return done.stdout, why if done.returncode else None
