"""Saved settings read back: a run's config.json, a sweep's best_config.json, whatever --config names."""

import dataclasses
import json
from typing import Any

from ldlva_dist.errors import SettingError
from ldlva_dist.values.settings import kinds_of, require, shown


def parse_json(text: bytes | str) -> Any:
    """The values of a JSON text; what is none, or names a setting twice, is a SettingError."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except SettingError:
        raise
    except RecursionError:
        raise SettingError("settings must be JSON, got one that is nested too deep") from None
    except ValueError as error:  # no JSON, no text, or a number of thousands of digits
        raise SettingError(f"settings must be JSON, got what is none: {error}") from None


def build_settings(cls: Any, values: Any, section: str = "") -> Any:
    """A dataclass of settings from plain values, with the sections inside it; what is left out has its default."""
    if not isinstance(values, dict):
        raise SettingError(f"{section or 'settings'} must be an object of names and values, got {shown(values)}")
    kinds, prefix = kinds_of(cls), f"{section}." if section else ""
    unknown = sorted(prefix + name for name in values if name not in kinds)
    require(not unknown, f"settings must be known to this version, got {shown(', '.join(unknown))}")
    return cls(
        **{
            name: build_settings(kinds[name], value, prefix + name) if dataclasses.is_dataclass(kinds[name]) else value
            for name, value in values.items()
        }
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise SettingError(f"settings must be named once, got twice: {shown(max(names, key=names.count))}")
    return values
