"""From a job's arguments to a run's settings: a preset or a saved JSON, then overrides by name."""

import sys
from collections.abc import Sequence

import tyro

from ldlva_dist.config import RunConfig, from_json
from ldlva_dist.config.presets import PRESETS
from ldlva_dist.errors import SettingError

USAGE = "PRESET [--SETTING VALUE ...]  or  --config FILE.json [--SETTING VALUE ...]"


def parse_run(args: Sequence[str] | None = None, *, description: str) -> RunConfig:
    """The settings that ``args`` (the process's own by default) ask for.

    Raises:
        SettingError: for a preset that does not exist, or a value that breaks a rule.
    """
    first, *rest = list(sys.argv[1:] if args is None else args) or ["--help"]
    if first == "--config":
        if not rest:
            raise SettingError("--config must name a JSON file of settings, got nothing")
        default, rest = read_config(rest[0]), rest[1:]
    elif first in PRESETS:
        default = PRESETS[first]()
    elif first in ("-h", "--help"):
        default, rest = RunConfig(), ["--help"]
    else:
        raise SettingError(f"the first argument must be a preset ({', '.join(PRESETS)}) or --config, got {first!r}")
    return override(default, rest, description=f"{description}\n\n{USAGE}")


def override(default: RunConfig, words: Sequence[str], *, description: str) -> RunConfig:
    """The settings with those that the words of a command line name in the place of their own.

    Args:
        default: Settings.
        words: ``--SETTING VALUE ...``
        description: Text above them in ``--help``.

    Raises:
        SettingError: for a value that breaks a rule.
    """
    return tyro.cli(RunConfig, default=default, args=list(words), description=description)


def read_config(uri: str) -> RunConfig:
    """Settings that were saved in a JSON file; a SettingError names the file beside the setting."""
    from ldlva_dist import storage  # half a second of imports, which other command lines need not wait for

    text = storage.read_bytes(uri)
    try:
        return from_json(text)
    except SettingError as error:
        raise SettingError(f"{error} (in {uri})") from error
