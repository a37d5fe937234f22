"""What a run tells whoever launched it, or launched several of them in other processes: sentences for the terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from ldlva_dist.records.console import say
from ldlva_dist.run.control import RunControl
from ldlva_dist.runtime import placement
from ldlva_dist.runtime.head_watch import is_head_lost
from ldlva_dist.waits.patience import tell_by

CLOSE_S = 5.0


def start_control() -> Any:
    """A :class:`RunControl` actor, which must be ended."""
    return ray.remote(RunControl).options(**placement.control_actor()).remote()


def end_control(control: Any) -> None:
    """Let go who waits for a :class:`RunControl` actor, and end it: somebody always waits, so Ray would keep it."""
    if not is_head_lost():  # then all of it is lost
        ray.wait([control.close.remote()], timeout=CLOSE_S)
        ray.kill(control)


class News:
    """What a :class:`RunControl` actor is told."""

    def __init__(self, control: Any) -> None:
        """Listen from now on."""
        self._control, self._heard = control, control.hear.remote()

    def show(self) -> None:
        """Show what has come meanwhile."""
        if not ray.wait([self._heard], timeout=0)[0]:
            return
        for sentence in ray.get(self._heard):
            show_sentence(sentence)
        self._heard = self._control.hear.remote()


@contextmanager
def shared_news() -> Iterator[tuple[Any, News]]:
    """An actor for :func:`show_through` in the processes that launch runs, and what it is told."""
    control = start_control()
    try:
        yield control, News(control)
    finally:
        end_control(control)


def show_through(control: Any, name: str) -> None:
    """Hand what this process would show of a run, and what it waits for, to the one that began several."""

    def hand_on(sentence: str) -> None:
        control.tell.remote(f"{name}: {sentence}")

    _SHOWN.by = hand_on
    tell_by(hand_on)


def show_sentence(sentence: str) -> None:
    """Show a sentence on stderr, or where :func:`show_through` says."""
    _SHOWN.by(sentence)


def _to_stderr(sentence: str) -> None:
    say(sentence, file=sys.stderr)


class _Shown:
    """One for all threads of a process."""

    by: Callable[[str], object] = staticmethod(_to_stderr)


_SHOWN = _Shown()
