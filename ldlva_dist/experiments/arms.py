"""What the experiments compare: arms. An arm is one side at one noise level, or one value of one setting."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ldlva_dist.config import RunConfig
from ldlva_dist.errors import SettingError

Change = Callable[[RunConfig], RunConfig]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing that is compared, with settings that lack a name, a seed and the version of the data set."""

    group: str
    """Line of a plot that it belongs to: a method, or a setting."""
    x: float
    """Place on the line: the noise level, or the setting's value."""
    config: RunConfig
    noise: str | None = None
    """Wrong labels to train on, as ``--noise`` says them."""
    shuffle_va: bool = False


def _loss(**values: object) -> Change:
    return lambda config: replace(config, loss=replace(config.loss, **values))


def _fixed_uncertainty(config: RunConfig) -> RunConfig:
    config = _loss(recipe="official")(config)
    return replace(config, uncertainty=replace(config.uncertainty, lr=0.0))


def _posterior(config: RunConfig) -> RunConfig:
    """It reads of its neighbours the labels alone, of which it needs more than LDLVA needs outputs."""
    num_neighbors = max(POSTERIOR_NEIGHBORS, config.neighbors.num_neighbors)
    config = replace(config, neighbors=replace(config.neighbors, num_neighbors=num_neighbors))
    return _loss(recipe="posterior")(config)


POSTERIOR_NEIGHBORS = 32
PLAIN, POSTERIOR, SHUFFLED, SMOOTHED = "cross-entropy", "label posterior", "shuffled VA", "label smoothing"
SIDES: Mapping[str, Change] = {
    PLAIN: _loss(recipe="ce", label_smoothing=0.0),
    SMOOTHED: _loss(recipe="ce"),
    "LDLVA": _loss(recipe="official"),
    "LDLVA (paper)": _loss(recipe="paper"),
    POSTERIOR: _posterior,
    "ELR": _loss(recipe="elr"),
    "SOP": _loss(recipe="sop"),
    "GCE": _loss(recipe="gce"),
    "SCE": _loss(recipe="sce"),
    "mixup": _loss(recipe="mixup"),
    "no uncertainty": _fixed_uncertainty,
    "no calibration": _loss(recipe="official", calibration=False),
    "no discriminative loss": _loss(recipe="official", gamma=0.0),
    SHUFFLED: _loss(recipe="official"),
}
"""From common settings to those of each side. Without uncertainty every sample keeps the initial one."""


@dataclass(frozen=True, kw_only=True)
class NoiseKind:
    """How labels become wrong."""

    name: Literal["symmetric", "confusion", "instance", "votes"] = "symmetric"
    confusion: str | None = None
    """For confusion: what is taken for what, see ``noise.read_confusion``."""

    def __post_init__(self) -> None:
        if (self.name == "confusion") != (self.confusion is not None):
            raise SettingError(
                "--confusion must name a CSV or an evaluation.json for --kind confusion, and nothing for other kinds, "
                f"got {self.confusion} for {self.name}"
            )

    def at(self, level: float) -> str | None:
        """The noise of a share of flipped labels; votes know no share, only 0 and 1."""
        if level == 0:
            return None
        if self.name == "votes":
            return "votes"
        return ":".join([self.name, f"{level:g}", *([self.confusion] if self.confusion else [])])


def noise_arms(
    config: RunConfig,
    levels: Sequence[float],
    sides: Sequence[str],
    label_smoothing: float,
    kind: NoiseKind = NoiseKind(),
) -> list[Arm]:
    """Every side at every share of flipped labels, all else equal.

    Raises:
        SettingError: for a side that does not exist, a level outside [0, 1), or nothing to compare.
    """
    unknown = [side for side in sides if side not in SIDES]
    if unknown or not sides or not levels:
        raise SettingError(
            f"--sides must be of {', '.join(SIDES)}, and --levels numbers; got {', '.join(sides) or 'no side'} "
            f"and {', '.join(f'{level:g}' for level in levels) or 'no level'}"
        )
    if kind.name == "votes":
        if not set(levels) <= {0, 1}:
            raise SettingError(f"--levels must be of 0 and 1 for --kind votes, got {', '.join(map(str, levels))}")
    elif not all(0 <= level < 1 for level in levels):
        raise SettingError(f"--levels must be in [0, 1), got {', '.join(f'{level:g}' for level in levels)}")
    smoothing = _loss(label_smoothing=label_smoothing)
    return [
        Arm(
            group=side,
            x=level,
            config=SIDES[side](smoothing(config) if side == SMOOTHED else config),
            noise=kind.at(level),
            shuffle_va=side == SHUFFLED,
        )
        for level in levels
        for side in sides
    ]


def ablation_arms(config: RunConfig, axes: Mapping[str, Sequence[float]], level: float) -> list[Arm]:
    """One setting after the other at each of its values, the others as they are; axes are those of :data:`AXES`."""
    if not 0 <= level < 1:
        raise SettingError(f"--level must be in [0, 1), got {level:g}")
    if not config.uses_neighbors:
        raise SettingError("loss.recipe must be official, paper or posterior for an ablation, got ce")
    if not any(axes.values()):
        raise SettingError("an ablation needs at least one value of one setting, got none")
    return [
        Arm(group=axis, x=value, config=AXES[axis](config, value), noise=NoiseKind().at(level))
        for axis, values in axes.items()
        for value in values
    ]


def _num_neighbors(config: RunConfig, value: float) -> RunConfig:
    if value != int(value):
        raise SettingError(f"K must be a whole number, got {value:g}")
    return replace(config, neighbors=replace(config.neighbors, num_neighbors=int(value)))


def _initial_uncertainty(config: RunConfig, value: float) -> RunConfig:
    if not 0 < value < 1:
        raise SettingError(f"an initial uncertainty must be in (0, 1), got {value:g}")
    logit = math.log(value / (1 - value))
    return replace(config, uncertainty=replace(config.uncertainty, initial_logit=logit))


AXES: Mapping[str, Callable[[RunConfig, float], RunConfig]] = {
    "K": _num_neighbors,
    "delta": lambda config, value: _loss(kernel_width=value)(config),
    "gamma": lambda config, value: _loss(gamma=value)(config),
    "initial uncertainty": _initial_uncertainty,
}
"""How a setting of an ablation is set to a value."""
