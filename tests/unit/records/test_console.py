"""What a job prints of people's data: names as they are, nothing is markup, nothing acts on the terminal."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ldlva_dist.dataset.manifest import DatasetInfo, ShardInfo, SplitInfo
from ldlva_dist.records.console import DataConsole, say, visible
from ldlva_dist.reporting.dataset_table import print_dataset
from ldlva_dist.reporting.doctor_table import print_findings
from ldlva_dist.reporting.forecast_table import print_outlook
from ldlva_dist.reporting.progress_bar import ProgressBar
from ldlva_dist.reporting.tables import print_comparison, print_evaluation, print_trials

NAMES = {
    "[/sad]": "[/sad]",
    "[bold]": "[bold]",
    "[link=https://example.org]x": "[link=https://example.org]x",
    ":smile:": ":smile:",
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x9b2Jc1": r"\x9b2Jc1",
    "ab\rc\x08d\x00": r"ab\rc\x08d\x00",
    "\u202etfel": r"\u202etfel",
    "\udcff.jpg": r"\udcff.jpg",
    "Freude, 中立, \u0928\u094d\u200d": "Freude, 中立, \u0928\u094d\u200d",
}
"""A name, and how it must stand on a terminal."""


@dataclass(frozen=True)
class Found:
    area: str
    check: str
    level: str
    found: str
    cure: str


@dataclass(frozen=True)
class Trial:
    status: str
    params: dict[str, float]
    accuracy: float | None = 0.5
    epochs: float = 1.0


def dataset(name: str) -> DatasetInfo:
    counts = {"train": (3, 4), "holdout": (0, 0), "test": (1, 1)}
    splits = {"train": SplitInfo(first_id=0, rows=7), "holdout": SplitInfo(first_id=7, rows=0)}
    return DatasetInfo(
        name=name,
        class_names=(name, "other"),
        splits=splits | {"test": SplitInfo(first_id=7, rows=2)},
        shards=(ShardInfo(name="train-000000.tar", split="train", first_id=0, rows=7, bytes=10),),
        has_valence_arousal=True,
        content_hash="0" * 64,
        class_counts=counts,
    )


def scored(name: str) -> dict[str, Any]:
    given = {"accuracy": 0.5, "mean_class_accuracy": 0.4, "macro_f1": 0.3, "ece": 0.1}
    return {"dataset": name, "split": "test", "samples": 100, "steps": 7, "given": given}


def outlook(name: str) -> dict[str, Any]:
    work = dict.fromkeys(("steps", "samples", "evaluations", "evaluated_samples", "checkpoints", "checkpoints_kept"), 1)
    sizes = dict.fromkeys(("checkpoint_bytes_in_all", "kept_bytes", "most_bytes", "read_bytes_per_epoch"), 1)
    unknown = dict.fromkeys(("samples_per_second", "start_seconds", "seconds", "cost"))
    memory = [{"name": name, "processes": 1, "each": 1, "how": name}]
    facts = {"name": name, "dataset": name, "num_train": 7, "steps_done": 0, "epochs": 1, "work": work}
    facts |= {"checkpoint_bytes": {name: 1}, "memory": memory, "problems": [{"sentence": name, "cure": name}]}
    return facts | sizes | unknown


def progress(name: str, console: DataConsole) -> None:
    with ProgressBar(console) as bar:
        bar(name, 1, 2)


PRINTS: dict[str, Callable[[str, DataConsole], None]] = {
    "dataset": lambda name, console: print_dataset(dataset(name), name, reasons={name: 2}, console=console),
    "evaluation": lambda name, console: print_evaluation(scored(name), console=console),
    "comparison": lambda name, console: print_comparison(
        {"ours": scored(name), "plain": scored(name)}, console=console
    ),
    "trials": lambda name, console: print_trials([Trial(name, {})], console=console),
    "findings": lambda name, console: print_findings([Found(name, name, "problem", name, name)], console=console),
    "outlook": lambda name, console: print_outlook(outlook(name), console=console),
    "progress": progress,
}


def printed(what: str, name: str, *, terminal: bool, width: int = 400) -> str:
    stream = io.StringIO()
    colors = "standard" if terminal else None
    PRINTS[what](name, DataConsole(file=stream, width=width, force_terminal=terminal, color_system=colors))
    return stream.getvalue()


@pytest.mark.parametrize("what", PRINTS)
def test_every_table_shows_names_as_they_are_and_lets_none_act_on_the_terminal(what: str) -> None:
    for name, expected in NAMES.items():
        text = printed(what, name, terminal=what == "progress")
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text) if what == "progress" else text  # the bar's own codes
        assert expected in plain, name
        assert visible(plain.replace("\r", "")) == plain.replace("\r", "")
        assert what == "progress" or "\r" not in text


@pytest.mark.parametrize("what", ["dataset", "comparison", "findings", "outlook"])
def test_a_name_changes_no_colour_of_a_terminal(what: str) -> None:
    """The codes on the terminal are those that are there for a harmless name."""
    codes = {name: re.findall(r"\x1b\[[0-9;]*m", printed(what, name, terminal=True)) for name in (*NAMES, "Sad")}
    assert all(set(found) == set(codes["Sad"]) for found in codes.values())
    assert not any(re.search(r"\x1b[^\[]|\x9b|\x07", printed(what, name, terminal=True)) for name in NAMES)


@pytest.mark.parametrize("what", ["dataset", "evaluation", "comparison", "findings", "outlook"])
def test_three_hundred_characters_are_all_there_in_eighty_columns(what: str) -> None:
    name = "".join(chr(0x3B1 + i % 20) for i in range(300))
    text = printed(what, name, terminal=False, width=80)
    letters = re.sub(r"[^\u03b1-\u03c9]", "", text)
    assert len(letters) % 300 == 0
    assert len(letters) >= 300
    assert all(len(line) <= 80 for line in text.splitlines())


def test_columns_stand_below_each_other_whatever_the_names() -> None:
    info = replace(dataset("\x1b[1mA"), name="set", class_names=("\x1b[1mA", "B"))
    stream = io.StringIO()
    print_dataset(info, "there", reasons={}, console=DataConsole(file=stream, width=80))
    rows = [line for line in stream.getvalue().splitlines() if "│" in line and ("x1b" in line or "B" in line)]
    assert len({line.index("│", 1) for line in rows}) == 1
    assert r"\x1b[1mA" in rows[0]


def test_a_line_is_printed_at_once_and_acts_on_nothing() -> None:
    stream = io.StringIO()
    say("written: /a/\x1b]8;;x\x07[bold]\n", file=stream)
    assert stream.getvalue() == "written: /a/\\x1b]8;;x\\x07[bold]\n\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_does_not_know_a_letter_gets_its_code(encoding: str) -> None:
    program = """
from ldlva_dist.errors import DataError
from ldlva_dist.records.console import DataConsole, say
from ldlva_dist.reporting.terminal import run_job
def main():
    say("written: 中立")
    DataConsole().print("Ärger [/sad] 中立")
    raise DataError("no class [/sad] 中立 \x1b[31m")
run_job(main)
"""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, timeout=120)
    assert done.returncode == 3
    chinese = "中立".encode() if encoding == "utf-8" else rb"\u4e2d\u7acb"
    assert b"written: " + chinese in done.stdout
    assert b"[/sad] " + chinese in done.stdout
    assert b"error: no class [/sad] " + chinese + rb" \x1b[31m" in done.stderr
