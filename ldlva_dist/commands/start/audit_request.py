"""What an audit is asked for on the command line: its own options, those of the source, settings of the run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Annotated, get_args

import tyro

from ldlva_dist.config import RunConfig
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.sources.commands import Command
from ldlva_dist.records.console import say
from ldlva_dist.run.cli import override
from ldlva_dist.values.settings import Range, check_options

KINDS = frozenset(kind.__metadata__[0].name for kind in get_args(Command))
_SECTIONS = "|".join(field.name for field in fields(RunConfig) if is_dataclass(field.default_factory))
_SETTING = re.compile(rf"--({_SECTIONS})\.")


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """See ``DESCRIPTION`` of audit.py."""

    folds: Annotated[int, Range(ge=2)] | None = None
    duplicates: bool = True
    probe: bool = True

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What an audit is asked for on the command line."""

    arguments: tuple[str, ...]
    """All of them."""
    options: AuditOptions
    words: tuple[str, ...]
    """Of the source: its kind, or a path, and its options."""
    settings: tuple[str, ...]
    """Settings of the run that are not to be chosen by size."""

    @property
    def is_path(self) -> bool:
        """Whether the source is to be looked at to know what it is."""
        return self.words[0] not in KINDS and not self.words[0].startswith("-")

    @property
    def output(self) -> str:
        """The audit's folder."""
        if not self.is_path:
            return tyro.cli(Command, args=list(self.words)).output
        named = [option[1] for option in options_of(self.words) if option[0] == "--output" and len(option) == 2]
        if not named:
            raise SettingError("--output must name the folder of the audit, got none")
        return named[-1]

    @cached_property
    def source(self) -> Command:
        """The source, whose output is the audit's folder. A path is looked at; labels may name classes of their own."""
        words, notes = _recognised(self.words) if self.is_path else (list(self.words), [])
        command = tyro.cli(Command, args=words)
        if not is_stated("--classes", words):
            from ldlva_dist.packing.guess.guess import class_options

            more, unclear = class_options(without_output(words), command.output)
            notes += unclear
            command = tyro.cli(Command, args=[*words, *more])
        for note in notes:
            say(note)
        return command if is_stated("--holdout", words) else replace(command, holdout=0.0)

    @property
    def epochs(self) -> float | None:
        """Passes over the data, where the command line says how many."""
        return self.override(RunConfig()).training.epochs if is_stated("--training.epochs", self.settings) else None

    def override(self, chosen: RunConfig) -> RunConfig:
        """Settings with those that the command line names."""
        config = override(chosen, self.settings, description="Settings of the run.")
        if not config.uses_neighbors:
            raise SettingError(
                f"loss.recipe must be official, paper or posterior for an audit, got {config.loss.recipe}"
            )
        return config


def parse_audit(arguments: Sequence[str]) -> AuditRequest:
    """What is asked for, as far as it can be checked before the source is looked at.

    Args:
        arguments: The command line.

    Raises:
        SettingError: for settings that break a rule.
    """
    options, rest = tyro.cli(AuditOptions, args=list(arguments), return_unknown_args=True, add_help=False)
    words, settings = split_settings(rest)
    if not words:
        raise SettingError("SOURCE must be a folder, a file or a kind of source, got none")
    request = AuditRequest(arguments=tuple(arguments), options=options, words=tuple(words), settings=tuple(settings))
    request.override(RunConfig())
    return request


def split_settings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that are not settings of a run, and those that are: ``--SECTION.NAME`` with what follows it."""
    words, settings = [], []
    target = words
    for word in arguments:
        if word.startswith("--"):
            target = settings if _SETTING.match(word) else words
        target.append(word)
    return words, settings


def is_stated(option: str, words: Sequence[str]) -> bool:
    """Whether an option stands among some words."""
    return any(word == option or word.startswith(f"{option}=") for word in words)


def options_of(words: Sequence[str]) -> list[list[str]]:
    """Words as options, each with its values."""
    found: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not found:
            found.append([])
        found[-1].append(word)
    return found


def without_output(words: Sequence[str]) -> list[str]:
    """The words but for ``--output`` and its value."""
    return [word for option in options_of(words) if not is_stated("--output", option) for word in option]


def without_placement(words: Sequence[str]) -> list[str]:
    """The words but for the settings that say where an audit runs, which may be others when it resumes."""
    return [word for option in options_of(words) if not option[0].startswith("--placement.") for word in option]


def _recognised(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A kind of source with its options in the place of a path, and sentences on how it was recognised.

    What the command line says itself is not guessed.
    """
    from ldlva_dist.packing.guess.guess import guess
    from ldlva_dist.packing.guess.look import IMAGES, LABEL

    path, *stated = words
    options = options_of(stated)
    own = {option[0].partition("=")[0] for option in options}
    label = next((option[1] for option in options if option[0] == "--label-column" and len(option) == 2), None)
    first, *others = guess(path, label=label)
    (kind, *_), *guessed = options_of(first.words)
    kept = [word for option in guessed if option[0] not in own for word in option]
    if {IMAGES, LABEL} & set(kept):
        raise SettingError(f"{path} is {first.why}, and not all of it is known: {'; '.join(first.notes)}")
    notes = [f"{path} is {first.why}", *(note for note in first.notes if not any(option in note for option in own))]
    notes += [f"it may also be {other.why}; then: {other.command}" for other in others]
    return [kind, *kept, *stated], notes
