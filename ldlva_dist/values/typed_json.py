"""JSON files of ours read back into their dataclasses: every value is checked for its kind and its rules.

A field's kind is its annotation; its rules are the :class:`Rule` in an ``Annotated`` one.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from ldlva_dist.errors import DataError

T = TypeVar("T")
MAX_DEPTH = 50
"""Depth of values of any kind; what is deeper could not be written again."""


@dataclass(frozen=True)
class Rule:
    """What a value must be besides its kind."""

    sentence: str
    """Goes on from "must be"."""
    holds: Callable[[Any], bool]


Count = Annotated[int, Rule("a number from 0 to 2^48", lambda value: 0 <= value <= 1 << 48)]
Text = Annotated[str, Rule("a text that is not empty", bool)]


def parse_object(data: bytes | str, uri: str) -> dict[str, Any]:
    """The object that a file's bytes are as JSON; anything else is a DataError."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{uri} is damaged: it is no JSON ({str(error)[:100]})") from error
    if not isinstance(raw, dict):
        raise DataError(f"{uri} is damaged: it must be a JSON object, got {_shown(raw)}")
    return raw


def require_format(raw: Mapping[str, Any], version: int, uri: str) -> None:
    """DataError for a file of another format than this program reads."""
    found = raw.get("format_version")
    if found != version or isinstance(found, bool):
        raise DataError(f"{uri} has format_version {_shown(found)}, this program reads {version}")


def build_dataclass(cls: type[T], raw: Mapping[str, Any], uri: str) -> T:
    """A dataclass from the object of a file; a field that is missing, unknown or not what it must be is a DataError."""
    return _dataclass(cls, raw, uri, "")


def _dataclass(cls: Any, raw: Any, uri: str, path: str) -> Any:
    if not isinstance(raw, dict):
        _refuse(uri, path, "an object", raw)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    inside = f"{path}." if path else ""
    for name in raw:
        if name not in fields:
            raise DataError(f"{uri} is damaged: this program does not know its field {inside + name!r:.100}")
    kinds, values = get_type_hints(cls, include_extras=True), {}
    for name, field in fields.items():
        if name in raw:
            values[name] = _value(kinds[name], raw[name], uri, inside + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DataError(f"{uri} is damaged: it has no field {inside + name!r}")
    return cls(**values)


def _value(kind: Any, raw: Any, uri: str, path: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _choice(inner, raw, uri, path)
    if origin is Annotated:
        value = _value(inner[0], raw, uri, path)
        for rule in inner[1:]:
            if not rule.holds(value):
                _refuse(uri, path, rule.sentence, raw)
        return value
    if origin in (Union, UnionType):
        some = next(member for member in inner if member is not NoneType)
        return None if raw is None else _value(some, raw, uri, path)
    if origin is tuple:
        return _tuple(inner, raw, uri, path)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(inner, raw, uri, path)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, raw, uri, path)
    return _plain(kind, raw, uri, path)


def _tuple(inner: tuple[Any, ...], raw: Any, uri: str, path: str) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        _refuse(uri, path, "a list", raw)
    if inner[-1] is Ellipsis:
        inner = inner[:1] * len(raw)
    if len(raw) != len(inner):
        _refuse(uri, path, f"a list of {len(inner)}", raw)
    return tuple(
        _value(kind, value, uri, f"{path}[{i}]") for i, (kind, value) in enumerate(zip(inner, raw, strict=True))
    )


def _mapping(inner: tuple[Any, ...], raw: Any, uri: str, path: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        _refuse(uri, path, "an object", raw)
    return {key: _value(inner[1], value, uri, f"{path}.{key:.40}") for key, value in raw.items()}


def _choice(choices: tuple[Any, ...], raw: Any, uri: str, path: str) -> Any:
    if not isinstance(raw, str) or raw not in choices:
        _refuse(uri, path, " or ".join(choices), raw)
    return raw


def _plain(kind: Any, raw: Any, uri: str, path: str) -> Any:
    if kind is Any:
        if _is_deeper(raw, MAX_DEPTH):
            _refuse(uri, path, f"at most {MAX_DEPTH} levels deep", raw)
    elif kind is float:
        if isinstance(raw, bool) or not isinstance(raw, int | float) or abs(raw) > 1e300 or math.isnan(raw):
            _refuse(uri, path, "a number", raw)
        return float(raw)
    elif type(raw) is not kind or (kind is str and not _is_clean(raw)):
        _refuse(uri, path, {str: "a text", int: "a whole number", bool: "true or false"}[kind], raw)
    return raw


def _is_clean(text: str) -> bool:
    """Whether every system can write it: NUL and halves of surrogate pairs are none's."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_deeper(value: Any, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deeper(member, levels - 1) for member in inside)


def _refuse(uri: str, path: str, must: str, raw: Any) -> NoReturn:
    raise DataError(f"{uri} is damaged: {path or 'it'} must be {must}, got {_shown(raw)}")


def _shown(raw: Any) -> str:
    """A value in a sentence."""
    if isinstance(raw, dict | list):
        return f"an object of {len(raw)}" if isinstance(raw, dict) else f"a list of {len(raw)}"
    return ascii(raw) if not isinstance(raw, int) or abs(raw) < 1 << 64 else "a number of 20 digits or more"
