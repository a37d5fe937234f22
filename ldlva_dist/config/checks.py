"""Rules that settings check themselves by; a broken one is a SettingError."""

from ldlva_dist.errors import SettingError


def require(condition: bool, sentence: str) -> None:
    if not condition:
        raise SettingError(sentence)


def at_least(section: str, minimum: float, **values: float | None) -> None:
    for name, value in values.items():
        require(value is None or value >= minimum, f"{section}.{name} must be >= {minimum:g}, got {value}")


def share(section: str, **values: float) -> None:
    for name, value in values.items():
        require(0 <= value <= 1, f"{section}.{name} must be in [0, 1], got {value}")
