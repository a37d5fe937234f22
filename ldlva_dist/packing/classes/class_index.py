"""Which class a label means: by its name, by another spelling of it, or by a number that was said to mean it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ldlva_dist.errors import SettingError
from ldlva_dist.packing.sources.rows import NO_VALUE, REFERENCE_CLASSES

MAX_NAME = 100
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,18})(\.0*)?\s*")
_STATED = re.compile(r"([0-9]{1,18})\s*=(.*)", re.DOTALL)
_SPELLINGS = {
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
    "fearful": "fear",
    "disgusted": "disgust",
    "angry": "anger",
}


_EMOTIONS = frozenset(name.lower() for name in (*REFERENCE_CLASSES, "Contempt"))


def whole_number(label: str) -> int | None:
    """The number that a label is, 3 for "3", "03" and "3.0"; None for any other text."""
    found = _WHOLE.fullmatch(label)
    return int(found[1]) if found else None


def spelling(name: str) -> str:
    """What all spellings of a class have in common."""
    word = name.strip().lower()
    return _SPELLINGS.get(word, word)


def is_emotion(name: str | None) -> bool:
    """Whether a word names an emotion that the known sets have, in a known spelling."""
    return name is not None and spelling(name) in _EMOTIONS


class ClassIndex:
    """Finds the index of a class by its name, a common other spelling of it, or a number."""

    def __init__(self, class_names: Sequence[str], numbers: Mapping[int, str] | None = None) -> None:
        """``numbers`` says what numbers mean; None counts the classes from 0, unless they are named by numbers."""
        self.class_names = tuple(class_names)
        self._index = {spelling(name): i for i, name in enumerate(class_names)}
        if len(self._index) != len(class_names) or len(class_names) < 2:
            raise SettingError(f"--classes must be at least two different names, got {list(class_names)}")
        if numbers is None:
            are_numbers = any(whole_number(name) is not None for name in class_names)
            numbers = {} if are_numbers else dict(enumerate(class_names))
        self.numbers = numbers

    def find(self, label: str) -> int | None:
        """The class index, or None for a label that is no class."""
        index = self._index.get(spelling(label))
        number = whole_number(label) if index is None else None
        return self._index.get(spelling(self.numbers.get(number, ""))) if number is not None else index

    def is_missing(self, label: str | None) -> bool:
        """Whether a label only says that there is none."""
        return label is None or (label.strip().lower() in NO_VALUE and self.find(label) is None)


@dataclass(frozen=True)
class StatedClasses:
    """What ``--classes`` says."""

    names: tuple[str, ...]
    """In index order."""
    numbers: dict[int, str] | None
    """Meaning of numbers; None counts the names from 0."""


def stated_classes(words: Sequence[str]) -> StatedClasses:
    """``--classes`` as names in index order, or as ``0=Angry 1=Disgust``; nothing said is the reference's seven names.

    In the second form the order of the classes is the one written, and only the numbers written mean something. Both
    may be separated by commas. Without ``--classes`` no number means anything.

    Raises:
        SettingError: for names that are none, too long or given twice, and for numbers given twice.
    """
    if not words:
        return StatedClasses(REFERENCE_CLASSES, {})
    pieces = [piece.strip() for word in words for piece in word.split(",") if piece.strip()]
    stated = [_STATED.fullmatch(piece) for piece in pieces]
    if not any(stated):
        names = tuple(pieces if len(words) == 1 else words)
        check_class_names(names)
        return StatedClasses(names, None)
    pairs = [(int(found[1]), found[2].strip()) for found in stated if found]
    numbers = dict(pairs)
    if len(pairs) < len(pieces) or len(numbers) < len(pairs):
        raise SettingError(f"--classes must say NUMBER=NAME of every class, each number once, got {' '.join(words)!r}")
    check_class_names([name for _, name in pairs])
    if any(whole_number(name) is not None for name in numbers.values()):
        raise SettingError(f"--classes must be names, where numbers are given too, got {' '.join(words)!r}")
    return StatedClasses(tuple(numbers.values()), numbers)


def check_class_names(names: Sequence[str]) -> None:
    """SettingError for names that cannot be printed in one line, and for fewer than two different ones."""
    for name in names:
        if not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
            raise SettingError(
                f"--classes must be names of 1 to {MAX_NAME} characters without line breaks, got {name[:MAX_NAME]!r}"
            )
    ClassIndex(names)


def as_option(numbers: Mapping[int, str]) -> str:
    """``--classes`` that states what numbers mean, ready to be copied."""
    pairs = [f"{number}={name}" for number, name in numbers.items()]
    return "--classes " + " ".join(f"'{pair}'" if re.search(r"[^\w=-]", pair) else pair for pair in pairs)
