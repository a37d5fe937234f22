"""Wait for a run: show what it tells, and pass on a Ctrl-C or a SIGTERM as a request to save and stop."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from ldlva_dist.errors import RunStopped
from ldlva_dist.run.news import News, show_sentence
from ldlva_dist.runtime.head_watch import require_head

POLL_S = 0.2
SIGNALS = (signal.SIGINT, signal.SIGTERM)
T = TypeVar("T")


def attend(
    work: Callable[[], T],
    control: Any,
    *,
    grace_s: float,
    until: threading.Event | None = None,
    require: Callable[[], None] = lambda: None,
) -> T:
    """Do ``work``, which ends soon after the :class:`RunControl` actor ``control`` was asked to stop the run.

    It is asked to at a signal, and where ``until`` is set; what ``require`` raises ends the waiting at once.
    It runs in a thread of its own: Ray Train would take a Ctrl-C for itself, and end the workers at once. Signals reach
    a process's main thread only; called in another one this waits and shows, no more.

    Raises:
        HeadLost: soon after the cluster has lost its head.
        RunStopped: if the work has not ended ``grace_s`` after a signal.
        KeyboardInterrupt: at a second signal.
    """
    done: Future[T] = Future()
    threading.Thread(target=_fulfil, args=(done, work), name="run", daemon=True).start()
    news, deadline = News(control), None
    with _signals() as asked:
        while not wait([done], timeout=POLL_S).done:
            news.show()
            require()
            require_head()
            if deadline is None and (asked.is_set() or (until is not None and until.is_set())):
                deadline = time.monotonic() + grace_s
                if asked.is_set():
                    show_sentence(
                        "stopping after this step, once a checkpoint is written; a second signal ends at once"
                    )
                control.stop.remote()
            if deadline is not None and time.monotonic() > deadline:
                raise RunStopped(
                    f"the run did not save and stop within {grace_s:g} s (training.stop_grace_s), and was ended; "
                    "run the same command again to resume from the last checkpoint"
                )
    news.show()
    return done.result()


def _fulfil(done: Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set the event at the first signal, raise KeyboardInterrupt at the second; the old handlers come back after."""
    asked = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt("ended at once; run the same command again to resume from the last checkpoint")
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
