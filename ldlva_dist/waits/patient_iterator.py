"""Items of an iterator that has no limit of its own: each is waited for with one, and the wait is never silent."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

from ldlva_dist.errors import ClusterError
from ldlva_dist.waits.patience import Patience

LOOK_S = 1.0
T = TypeVar("T")


def patiently(items: Iterable[T], what: str, *, limit_s: float, state: Callable[[], str]) -> Iterator[T]:
    """Give the items, which a thread of their own makes: each when it is asked for, and none ahead.

    Args:
        items: An iterable of any length.
        what: Thing that is waited for.
        limit_s: Longest wait for one item, in seconds.
        state: Says what there is of it, and what is wanted.

    Raises:
        ClusterError: for an item that does not come within the limit; the thread waits on, and ends with the process.
    """
    asked: SimpleQueue[Future[list[T]] | None] = SimpleQueue()
    threading.Thread(target=_make, args=(items, asked), name=what, daemon=True).start()
    try:
        while True:
            made, patience = Future[list[T]](), Patience(limit_s)
            asked.put(made)
            while not wait([made], timeout=min(LOOK_S, patience.left_s)).done:
                if not patience.left_s:
                    raise ClusterError(f"there was no sign of {what} for {limit_s:g} s: {state()}")
                patience.tell(what, state())
            found = made.result()
            if not found:
                return
            yield found[0]
    finally:
        asked.put(None)


def begun(items: Iterator[T]) -> Iterator[T]:
    """The same items, of which a thread makes the first one from now on; who makes them limits the wait for it."""
    first = Future[list[T]]()

    def make_first() -> None:
        try:
            first.set_result(list(islice(items, 1)))
        except BaseException as error:
            first.set_exception(error)

    threading.Thread(target=make_first, name="first item", daemon=True).start()
    return _after(first, items)


def _after(first: Future[list[T]], rest: Iterator[T]) -> Iterator[T]:
    yield from first.result()
    yield from rest


def _make(items: Iterable[T], asked: "SimpleQueue[Future[list[T]] | None]") -> None:
    """Answer with a list of one item, or of none at the end."""
    rest = iter(items)
    while made := asked.get():
        try:
            made.set_result(list(islice(rest, 1)))
        except BaseException as error:
            made.set_exception(error)
