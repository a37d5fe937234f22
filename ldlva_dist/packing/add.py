"""How rows are packed that are added to a data set: with its classes, and its settings where no others are given."""

from dataclasses import replace
from typing import TypeVar

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.common import HOLDOUT, Common, KnownClasses

Kind = TypeVar("Kind", bound=Common)
_OF_A_WHOLE_SET = ("standardize_va", "shuffle_va", "noise")


def adding(command: Kind, dataset: Dataset) -> tuple[Kind, PackSettings]:
    """The kind of source with the data set's classes, and how its rows are packed.

    Args:
        command: What the user says of the new rows.
        dataset: What they are added to.

    Raises:
        SettingError: for settings that only a whole set can have, or classes that are not those of the data set.
    """
    info, made = dataset.info, dataset.info.source
    for name in _OF_A_WHOLE_SET:
        if getattr(command, name) not in (None, False):
            raise SettingError(
                f"--{name.replace('_', '-')} must be left to the packing of a whole set, got {getattr(command, name)}"
            )
    if made.get("shuffle_va") is not None or made.get("shuffled_va"):
        raise SettingError(
            f"rows must be added to a set whose valence-arousal is its own, got a shuffled one: {dataset.uri}"
        )
    numbers = _numbers(command, info.class_names)
    holdout_by = command.holdout_by or made.get("holdout_by")
    seed = made.get("seed", command.seed)
    if command.seed not in (0, seed):
        raise SettingError(f"--seed must be the one that the data set was packed with ({seed}), got {command.seed}")
    settings = PackSettings(
        name=info.name,
        class_names=info.class_names,
        numbers=numbers,
        size=made.get("size") if command.size is None else command.size,
        holdout=made.get("holdout", HOLDOUT) if command.holdout is None else command.holdout,
        holdout_by=holdout_by,
        drop_copies=command.drop_copies,
        seed=seed,
        on_bad_data=command.on_bad_data,
        max_rejected=command.max_rejected,
    )
    return replace(command, classes=info.class_names, holdout_by=holdout_by, seed=seed), settings


def _numbers(command: Common, names: tuple[str, ...]) -> dict[int, str] | None:
    """Meaning of labels that are numbers, as for a new set; the classes must be ``names``, where any are stated."""
    if not command.classes:
        return command.numbers() or {}
    stated = command.stated()
    if stated.names != names:
        option = "--num-classes" if isinstance(command, KnownClasses) else "--classes"
        raise SettingError(
            f"{option} must give the classes of the data set, in its order ({', '.join(names)}), "
            f"got {', '.join(stated.names)}"
        )
    return stated.numbers
