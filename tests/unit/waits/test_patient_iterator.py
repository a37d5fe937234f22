"""An iterator that has no limit of its own is waited for with one."""

import threading
from collections.abc import Iterator

import pytest

from ldlva_dist.errors import ClusterError, DataError
from ldlva_dist.waits import patience
from ldlva_dist.waits.patience import tell_by
from ldlva_dist.waits.patient_iterator import patiently

LIMIT_S = 60.0


def read(items: Iterator[int], limit_s: float = LIMIT_S) -> Iterator[int]:
    return patiently(items, "numbers", limit_s=limit_s, state=lambda: "there is none")


def test_items_come_in_order_and_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number

    reader = read(items())
    assert next(reader) == 0
    assert made == [0]
    assert list(reader) == [1, 2]


def test_an_error_comes_where_its_item_would() -> None:
    def items() -> Iterator[int]:
        yield 7
        raise DataError("no more")

    reader = read(items())
    assert next(reader) == 7
    with pytest.raises(DataError, match="no more"):
        next(reader)


def test_a_long_wait_is_told_and_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "QUIET_S", 0.0)
    said, never = list[str](), threading.Event()
    tell_by(said.append)
    try:

        def items() -> Iterator[int]:
            never.wait(LIMIT_S)
            yield 1

        with pytest.raises(ClusterError, match=r"no sign of numbers for 1\.5 s: there is none"):
            next(read(items(), limit_s=1.5))
    finally:
        never.set()
        tell_by(None)
    assert said[0].startswith("waiting for numbers: there is none; ")


def test_a_reader_that_is_closed_ends_what_makes_the_items() -> None:
    ended = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            ended.set()

    reader = read(items())
    next(reader)
    reader.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert ended.wait(LIMIT_S)
