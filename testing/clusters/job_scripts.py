"""A script of jobs/, run in this process, which saves its imports; it finds the process connected to the cluster."""

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[2] / "jobs"


@dataclass(frozen=True)
class Done:
    """How a script ended."""

    code: int
    stdout: str
    stderr: str


class Scripts:
    """Runs scripts with what a user gives them on the command line."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def run(self, name: str, *arguments: str) -> Done:
        path = str(JOBS / f"{name}.py")
        self._monkeypatch.setattr(sys, "argv", [path, *arguments])
        self._capsys.readouterr()  # what was printed before
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name="__main__")
        printed = self._capsys.readouterr()
        return Done(int(end.value.code or 0), printed.out, printed.err)
