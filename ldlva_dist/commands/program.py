"""The program ``ldlva``: a command by name. Each command reads the rest of the command line itself.

Only the command that was asked for is imported, and it imports what takes seconds after its command line was checked.
"""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from ldlva_dist.errors import SettingError
from ldlva_dist.records.console import say
from ldlva_dist.reporting.terminal import run_job

COMMANDS = {
    "start": {
        "audit": "from images with labels to the page of those that are probably wrong",
        "demo": "draw faces, flip labels, search and train both ways, show what was found",
        "doctor": "say what is wrong with this machine or cluster, and its cure",
    },
    "data": {
        "make_shards": "pack images and labels; guess, verify or relabel a data set",
        "annotate_va": "give a data set valence-arousal, by a model or a table",
        "build_index": "find the nearest neighbours of every training sample",
    },
    "training": {
        "plan": "say what a run will take, before anything runs",
        "train": "train one run",
        "sweep": "search K, gamma and learning rates",
        "status": "say how a run or sweep stands, or ended",
        "experiment": "repeat the paper's experiments: noise, ablation",
    },
    "labels": {
        "evaluate": "judge a checkpoint",
        "report": "write the page of doubtful labels, and the table of all",
        "exchange": "take the suspects to another tool, and back",
    },
    "network": {
        "predict": "predict the images of a data set, folder or parquet file",
        "export": "take the trained network away",
    },
}
"""Folder of commands, name, and what it does. A command is the function run_NAME of the module NAME in its folder."""
USAGE = """usage: ldlva COMMAND [--OPTION VALUE ...]

Find the labels that are wrong, and train on faces although they are.
"""
MORE = """
ldlva COMMAND --help explains a command; ldlva --version names the release. A command that fails says one sentence and
ends with 2 (a setting), 3 (the data) or 4 (the cluster or a store)."""
HELP, VERSION = ("-h", "--help"), "--version"


def run_program() -> NoReturn:
    """Run the command that the first word of the command line names, or list all of them."""
    run_job(_obey)


def run_command(name: str) -> NoReturn:
    """Run a command with the command line of this process, as the scripts in jobs/ do.

    Args:
        name: One of :data:`COMMANDS`.
    """
    run_job(find_command(name))


def find_command(name: str) -> Callable[[], None]:
    """The function of a command.

    Args:
        name: One of :data:`COMMANDS`.

    Raises:
        SettingError: for another name; it says which ones are near.
    """
    for folder, commands in COMMANDS.items():
        if name in commands:
            return getattr(import_module(f"ldlva_dist.commands.{folder}.{name}"), f"run_{name}")
    names = [name for commands in COMMANDS.values() for name in commands]
    near = get_close_matches(name.replace("-", "_"), names)
    hint = f"near it: {', '.join(near)}" if near else "ldlva --help lists them"
    raise SettingError(f"the first argument must be a command, got {name!r} ({hint})")


def command_list() -> str:
    """What ``ldlva --help`` prints: every command with a line, by folder."""
    lines = [
        line
        for folder, commands in COMMANDS.items()
        for line in (f"{folder}:", *(f"  {name:12} {does}" for name, does in commands.items()))
    ]
    return "\n".join([USAGE, *lines, MORE])


def _obey() -> None:
    name, *rest = sys.argv[1:] or HELP
    if name in HELP:
        say(command_list())
    elif name == VERSION:
        from importlib.metadata import version  # not needed to run a command

        say(f"ldlva-dist {version('ldlva-dist')}")
    else:
        run = find_command(name)
        sys.argv = [f"ldlva {name}", *rest]
        run()
