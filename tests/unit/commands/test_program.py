"""The program ``ldlva``: every job by name, listed at once, and a wheel that has all of it."""

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from ldlva_dist.commands.program import COMMANDS, find_command
from ldlva_dist.errors import SettingError

ROOT = Path(__file__).parents[3]
NAMES = {name: does for commands in COMMANDS.values() for name, does in commands.items()}
PROGRAM = "from ldlva_dist.commands.program import run_program; run_program()"
SLOW = {"ray", "torch", "deepspeed", "faiss", "pyarrow", "pandas", "scipy", "numpy", "PIL", "tyro"}
MEASURED = """
import json, sys, time
from ldlva_dist.commands.program import run_program
try:
    run_program()
finally:
    print(json.dumps([time.process_time(), sorted(sys.modules)]))
"""


def ldlva(*arguments: str, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_every_script_of_jobs_is_a_command() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(NAMES)
    for name in NAMES:
        assert f'run_command("{name}")' in (ROOT / "jobs" / f"{name}.py").read_text()
        assert callable(find_command(name))


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_every_command_in_under_a_second_of_cpu(arguments: list[str]) -> None:
    done = ldlva(*arguments, program=MEASURED)
    *lines, measured = done.stdout.splitlines()
    seconds, modules = json.loads(measured)
    assert [line.split(maxsplit=1)[0] for line in lines if line.startswith("  ")] == list(NAMES)
    assert all(f" {does}" in done.stdout for does in NAMES.values())
    assert seconds < 1
    assert SLOW & {module.partition(".")[0] for module in modules} == set()
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("trian", "near it: train"),
        ("make-shards", "near it: make_shards"),
        ("nonsense", "ldlva --help lists them"),
        ("--dataset", "ldlva --help lists them"),
    ],
)
def test_no_command_is_a_setting_error_that_names_the_nearest(wrong: str, hint: str) -> None:
    with pytest.raises(SettingError, match=hint):
        find_command(wrong)


def test_the_program_ends_with_the_codes_of_the_jobs() -> None:
    wrong = ldlva("nonsense")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: the first argument must be a command, got 'nonsense'")
    missing = ldlva("status", "--run", "no/such/run")
    assert (missing.returncode, "--run must be the folder of a run" in missing.stderr) == (2, True)


def test_a_command_shows_its_own_help_and_name() -> None:
    done = ldlva("make_shards", "guess", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ldlva make_shards guess")


def test_the_program_is_what_pip_installs() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["ldlva"].partition(":")
    assert callable(getattr(import_module(module), function))


def test_a_wheel_has_every_file_of_the_package_and_works_without_the_checkout(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "ldlva_dist", tmp_path / "ldlva_dist", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    [wheel] = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    files = [path.relative_to(tmp_path) for path in (tmp_path / "ldlva_dist").rglob("*") if path.is_file()]
    assert [str(path) for path in files if not (installed / path).exists()] == []
    program = f"import sys; sys.path.insert(0, {str(installed)!r}); {PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], cwd=installed, capture_output=True, text=True, timeout=60, check=True
    )
    assert "make_shards" in done.stdout
