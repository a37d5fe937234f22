"""Waiting is never silent, and never loud."""

from collections.abc import Iterator

import pytest

from ldlva_dist.waits.patience import Patience, tell_by


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    tell_by(lines.append)
    yield lines
    tell_by(None)


def test_a_wait_says_what_is_there_what_is_wanted_and_how_long_still(clock: Clock, said: list[str]) -> None:
    patience = Patience(60.0, clock)
    clock.now = 6.0
    patience.tell("nodes", "there are 0 CPUs, one run needs 4")
    assert said == ["waiting for nodes: there are 0 CPUs, one run needs 4; 54 s more at most"]


def test_a_short_wait_is_silent(clock: Clock, said: list[str]) -> None:
    patience = Patience(60.0, clock)
    clock.now = 4.9
    patience.tell("nodes", "none")
    assert said == []


def test_all_waits_of_a_process_say_one_line_in_thirty_seconds(clock: Clock, said: list[str]) -> None:
    several = [Patience(3600.0, clock) for _ in range(3)]
    for second in range(5, 100):
        clock.now = float(second)
        for patience in several:
            patience.tell("the store", f"second {second}")
    assert [line.split("; ")[0] for line in said] == [f"waiting for the store: second {s}" for s in (5, 35, 65, 95)]


def test_the_limit_is_counted_down_to_nothing(clock: Clock) -> None:
    patience = Patience(10.0, clock)
    assert patience.left_s == 10.0
    clock.now = 11.0
    assert (patience.left_s, patience.waited_s) == (0.0, 11.0)


def test_lines_go_to_stderr_by_default(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    tell_by(None)
    patience = Patience(60.0, clock)
    clock.now = 30.0
    patience.tell("bank shards", "[1] of [0, 1] have yet to answer")
    printed = capsys.readouterr()
    assert printed.err == "waiting for bank shards: [1] of [0, 1] have yet to answer; 30 s more at most\n"
    assert printed.out == ""
