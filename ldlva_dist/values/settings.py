"""Rules that settings check themselves by: kind, choices and range of a value stand in its field's annotation.

The same rules hold for saved settings, for the command line and for settings made in Python. A whole number may be
written 2.0, a number 2 and a tuple as a list; nothing else is taken for what it is not. A broken rule is a SettingError
that names the setting, the rule and the value.
"""

import dataclasses
import math
import os
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ldlva_dist.errors import SettingError

MAX_INT = 2**63 - 1
NAME_BYTES = 200
"""Longest name of a folder; file systems take 255, and temporary files add to it."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 80


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that a setting may be; infinity and NaN never are."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the number lies inside."""
        above = (self.gt is None or value > self.gt) and (self.ge is None or value >= self.ge)
        return above and (self.lt is None or value < self.lt) and (self.le is None or value <= self.le)

    def __str__(self) -> str:
        signs = {">": self.gt, ">=": self.ge, "<": self.lt, "<=": self.le}
        return " and ".join(f"{sign} {bound}" for sign, bound in signs.items() if bound is not None)


Positive = Annotated[float, Range(gt=0)]
NotNegative = Annotated[float, Range(ge=0)]
Share = Annotated[float, Range(ge=0, le=1)]
Momentum = Annotated[float, Range(ge=0, lt=1)]
Seconds = Annotated[float, Range(gt=0, le=10**7)]
"""A limit in time: 10^7 s are four months, and what every library's clock can hold."""
Epochs = Annotated[float, Range(gt=0, le=10**6)]
Count = Annotated[int, Range(ge=1)]
BatchSize = Annotated[int, Range(ge=1, le=2**20)]
Resize = Literal["antialias", "reference"]
"""How images are brought to the network's size; what was written before this could be chosen means reference."""
Seed = Annotated[int, Range(ge=0, le=MAX_INT)]


def require(condition: bool, sentence: str) -> None:
    """SettingError with this sentence unless the condition holds."""
    if not condition:
        raise SettingError(sentence)


def check_settings(settings: Any, section: str = "") -> None:
    """Hold the values of a dataclass to their annotations, and put them there in exactly those types."""
    _check(settings, lambda field: f"{section}.{field}" if section else field)


def check_options(options: Any) -> None:
    """The same for what a job is told on the command line: fields are named as options, such as --batch-size."""
    _check(options, lambda field: f"--{field.replace('_', '-')}")


def check_name(setting: str, name: str) -> None:
    """SettingError unless a name can be that of a folder, on disks and stores alike."""
    plain = name.isprintable() and not re.search(r"[\s/\\]", name)
    require(
        plain and name[:1] not in ("", ".", "-") and len(name.encode()) <= NAME_BYTES,
        f"{setting} must be a plain folder name (at most {NAME_BYTES} bytes; no blank, slash or control character; no "
        f"dot or dash at its beginning), got {shown(name)}",
    )


@cache
def kinds_of(cls: type) -> dict[str, Any]:
    """Annotations of a dataclass's fields by their names."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def shown(value: Any) -> str:
    """A value as a message shows it: in one line, and not longer than one."""
    return _SHOWN.repr(value)


class _Misfit(Exception):
    """A value that is not of its kind; the whole kind is told where the setting's name is known."""


def _check(settings: Any, name_of: Callable[[str], str]) -> None:
    for field, kind in kinds_of(type(settings)).items():
        value = getattr(settings, field)
        try:
            object.__setattr__(settings, field, _fit(value, kind))
        except _Misfit:
            raise SettingError(f"{name_of(field)} must be {_describe(kind)}, got {shown(value)}") from None


def _fit(value: Any, kind: Any) -> Any:
    """The value in exactly its kind."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        fitted = _fit(value, inner[0])
        if not all(rule.holds(fitted) for rule in inner[1:] if isinstance(rule, Range)):
            raise _Misfit
        return fitted
    if origin is Literal:
        return _choice(value, inner)
    if origin in (Union, UnionType):
        return _first(value, inner)
    if origin is tuple:
        return _tuple(value, inner)
    return _PLAIN.get(kind, _same)(value, kind)


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    if isinstance(value, bool) or value not in choices:
        raise _Misfit
    return choices[choices.index(value)]


def _first(value: Any, kinds: tuple[Any, ...]) -> Any:
    for kind in kinds:
        try:
            return _fit(value, kind)
        except _Misfit:
            continue
    raise _Misfit


def _tuple(value: Any, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _Misfit
    kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
    if len(kinds) != len(value):
        raise _Misfit
    return tuple(_fit(element, kind) for element, kind in zip(value, kinds, strict=True))


def _whole(value: Any, kind: type) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, Integral) or abs(int(value)) > MAX_INT:
        raise _Misfit
    return int(value)


def _number(value: Any, kind: type) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _Misfit
    try:
        number = float(value)
    except OverflowError:
        raise _Misfit from None
    if not math.isfinite(number):
        raise _Misfit
    return number


def _text(value: Any, kind: type) -> str:
    if not isinstance(value, str) or _CONTROL.search(value):
        raise _Misfit
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise _Misfit from None
    return value


def _same(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _Misfit
    return value


_PLAIN: dict[Any, Callable[[Any, Any], Any]] = {int: _whole, float: _number, str: _text}
_NAMES = {int: "a whole number", float: "a number", str: "one line of text", bool: "true or false", NoneType: "none"}


def _describe(kind: Any) -> str:
    """The rule of a kind, to be read after "must be"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return " ".join([_describe(inner[0]), *(str(rule) for rule in inner[1:] if isinstance(rule, Range))])
    if origin is Literal:
        return " or ".join(", ".join(map(str, inner)).rsplit(", ", 1))
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, inner))
    if origin is tuple:
        number = "values" if inner[1:] == (...,) else len(inner)
        return f"a list of {number}, each {_describe(inner[0])}"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))
