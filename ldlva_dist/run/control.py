"""What the launching process and the workers tell each other besides the training itself; an actor."""

import asyncio
import time

from ldlva_dist.waits.patience import TELL_EVERY_S

PATIENCE_S = 5.0
"""Ranks that wait for the same rank give up within this time of each other."""


class RunControl:
    """One way a request to stop, the other way sentences for the terminal. Callers wait for news instead of polling."""

    def __init__(self) -> None:
        self._stop, self._is_final = asyncio.Event(), False
        self._left = asyncio.Event()
        self._sentences: list[str] = []
        self._told = asyncio.Event()
        self._waiting: dict[str, set[int]] = {}
        self._told_wait: float | None = None

    async def stop(self) -> None:
        """Ask the workers to save and stop after the step they are at."""
        self._is_final = True
        self._stop.set()

    async def pause(self, limit_s: float) -> bool:
        """Ask the same of the workers that are at work, but not of those that come after them.

        Answers when they have left, or with False after ``limit_s``.
        """
        self._stop.set()
        try:
            await asyncio.wait_for(self._left.wait(), limit_s)
        except TimeoutError:
            return False
        finally:
            if not self._is_final:
                self._stop.clear()
        return True

    async def stopping(self) -> None:
        """Answers once the run was asked to stop; every worker asks when it begins."""
        self._left.clear()
        await self._stop.wait()

    async def leave(self) -> None:
        """Said by rank 0 when it has done its last of a start of the workers."""
        self._left.set()

    async def close(self) -> None:
        """Answer everybody who still waits; what waits when an actor is killed would be reported as lost."""
        self._stop.set()
        self._told.set()

    async def tell(self, sentence: str) -> None:
        """Show a sentence on the terminal of whoever launched the run."""
        self._sentences.append(sentence)
        self._told.set()

    async def tell_wait(self, sentence: str) -> None:
        """The same of somebody who waits; of many that wait for the same at once, one is shown."""
        now = time.monotonic()
        if self._told_wait is None or now - self._told_wait >= TELL_EVERY_S:
            self._told_wait = now
            await self.tell(sentence)

    async def hear(self) -> list[str]:
        """Answers with what was told since the last call, once there is something."""
        await self._told.wait()
        self._told.clear()
        sentences, self._sentences = self._sentences, []
        return sentences

    async def find_late(self, place: str, rank: int, world_size: int) -> list[int]:
        """Said by a rank that waited in vain at some place; answers with the ranks that do not say so too."""
        if place not in self._waiting:
            asyncio.get_running_loop().call_later(2 * PATIENCE_S, self._waiting.pop, place, None)
        waiting = self._waiting.setdefault(place, set())
        waiting.add(rank)
        await asyncio.sleep(PATIENCE_S)
        return sorted(set(range(world_size)) - waiting)
