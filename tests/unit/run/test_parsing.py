"""Every job parses its command line before it imports what takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[3] / "jobs"
SLOW = {"ray", "torch", "deepspeed", "faiss", "pyarrow", "pandas", "scipy", "PIL", "matplotlib", "botocore", "sklearn"}
NOT_UNDERSTOOD = 2
SUBCOMMANDS = {
    "annotate_va": ["model", "table"],
    "audit": ["folder", "parquet", "faces"],
    "exchange": ["write", "read"],
    "experiment": ["noise", "ablation"],
    "make_shards": [
        *("folder", "class-folders", "parquet", "webdataset", "affectnet", "affectnet-folders", "rafdb", "ferplus"),
        *("faces", "verify", "relabel", "add"),
    ],
    "predict": ["dataset", "folder", "parquet"],
}
PRESET = {"train": ["demo"], "sweep": ["demo"], "plan": ["demo"]}
WRONG_VALUES = {
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
    beginnings = [PRESET.get(job, []), *([name] for name in SUBCOMMANDS.get(job, []))]
    helps = [[*beginning, "--help"] for beginning in beginnings]
    mistakes = [[*beginning, "--no-such-option", "1"] for beginning in beginnings] + [WRONG_VALUES[job]]
    arguments = json.dumps([str(JOBS / f"{job}.py"), *helps, *mistakes])
    done = subprocess.run([sys.executable, "-c", PROGRAM, arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    codes, imported = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0] * len(helps) + [NOT_UNDERSTOOD] * len(mistakes)
    assert SLOW & set(imported) == set()
