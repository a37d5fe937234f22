"""Every job parses its command line before it imports what takes seconds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from ldlva_dist.packing.sources.commands import Command
from testing.help_texts import command_lines, wrong_value

JOBS = Path(__file__).parents[3] / "jobs"
SLOW = {"ray", "torch", "deepspeed", "faiss", "pyarrow", "pandas", "scipy", "PIL", "matplotlib", "botocore", "sklearn"}
NOT_UNDERSTOOD = 2
BREAK_A_RULE = {
    "train": ["demo", "--data.batch-size", "0"],
    "sweep": ["demo", "--data.batch-size", "0"],
    "plan": ["demo", "--probe-seconds", "-1"],
    "audit": ["folder", "--output", "o", "--table", "t", "--images", "i", "--training.epochs", "0"],
    "build_index": ["--dataset", "there", "--k-max", "0"],
    "demo": ["--flip-share", "2"],
    "doctor": ["--only", "nothing"],
    "evaluate": ["--run", "there", "--num-tasks", "0"],
    "exchange": ["write", "--run", "r", "--format", "cvat", "--output", "o", "--first", "0"],
    "experiment": ["noise", "--dataset", "there", "--seeds", "0"],
    "annotate_va": ["model", "--dataset", "there", "--name", "new", "--model", "m.onnx", "--input-size", "0"],
    "make_shards": ["folder", "--output", "o", "--table", "t", "--images", "i", "--holdout", "1"],
    "predict": ["folder", "--model", "m", "--output", "o", "--images", "i", "--batch-size", "0"],
    "report": ["--run", "there", "--megabytes", "0"],
    "export": ["--run", "there"],
    "status": [],
}
"""Values that can be read, but break a rule."""
PROGRAM = """
import json, runpy, sys
path, *argument_lists = json.loads(sys.argv[1])
codes = []
for arguments in argument_lists:
    sys.argv = [path, *arguments]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        codes.append(end.code or 0)
print(json.dumps([codes, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize("job", sorted(path.stem for path in JOBS.glob("*.py")))
def test_help_and_mistakes_are_answered_before_anything_slow_is_imported(job: str) -> None:
    lines = list(command_lines(job))
    helps = [[*beginning, "--help"] for beginning, _ in lines]
    mistakes = [[*beginning, "--no-such-option", "1"] for beginning, _ in lines]
    mistakes += [[*beginning, *wrong] for beginning, text in lines if (wrong := wrong_value(text))]
    mistakes += [BREAK_A_RULE[job]] if BREAK_A_RULE[job] else []
    arguments = json.dumps([str(JOBS / f"{job}.py"), *helps, *mistakes])
    done = subprocess.run([sys.executable, "-c", PROGRAM, arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    codes, imported = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0] * len(helps) + [NOT_UNDERSTOOD] * len(mistakes)
    assert SLOW & set(imported) == set()


def test_the_command_lines_are_all_that_the_program_takes() -> None:
    found = {job: [" ".join(beginning) for beginning, _ in command_lines(job)] for job in ("make_shards", "audit")}
    kinds = {kind.__metadata__[0].name for kind in get_args(Command)}
    assert set(found["audit"]) == {"", *kinds}
    others = {"verify", "relabel", "guess", "add"}
    assert set(found["make_shards"]) == {"", *kinds, *others, *(f"add there {kind}" for kind in kinds)}
    assert {tuple(beginning) for beginning, _ in command_lines("experiment")} == {
        (),
        ("noise",),
        ("ablation",),
        ("folds",),
    }
    assert [beginning for beginning, _ in command_lines("train")] == [[], ["demo"]]
    wrong = {" ".join(beginning): wrong_value(text) for beginning, text in command_lines("experiment")}
    assert wrong["folds"] == ["--max-concurrent", "no-such-value"]
