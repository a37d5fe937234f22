"""Requests to stop reach the workers they are meant for, and no others."""

import asyncio

from ldlva_dist.run.control import RunControl

LIMIT_S = 30


def test_a_pause_reaches_the_workers_at_work_and_not_those_after_them() -> None:
    async def run() -> None:
        control = RunControl()
        ranks = [asyncio.create_task(control.stopping()) for _ in range(2)]
        pause = asyncio.create_task(control.pause(LIMIT_S))
        await asyncio.wait_for(asyncio.gather(*ranks), LIMIT_S)
        assert not pause.done(), "the workers have yet to save"
        await control.leave()
        assert await pause
        assert not await _is_stopping(control)

    asyncio.run(run())


def test_workers_that_have_left_by_themselves_are_not_waited_for_and_a_later_start_is() -> None:
    async def run() -> None:
        control = RunControl()
        first = asyncio.create_task(control.stopping())
        await asyncio.sleep(0)
        await control.leave()
        assert await control.pause(LIMIT_S)
        await first
        second = asyncio.create_task(control.stopping())
        await asyncio.sleep(0)
        assert not await control.pause(0.01), "nobody left"
        await second
        assert not await _is_stopping(control)

    asyncio.run(run())


def test_a_request_to_stop_outlives_a_pause() -> None:
    async def run() -> None:
        control = RunControl()
        await control.stop()
        await control.leave()
        assert await control.pause(LIMIT_S)
        assert await _is_stopping(control)

    asyncio.run(run())


def test_of_all_that_wait_at_once_one_is_heard() -> None:
    async def run() -> None:
        control = RunControl()
        for rank in range(4):
            await control.tell_wait(f"rank {rank} waits for the store")
        assert await asyncio.wait_for(control.hear(), LIMIT_S) == ["rank 0 waits for the store"]

    asyncio.run(run())


async def _is_stopping(control: RunControl) -> bool:
    """What a worker that begins now is told."""
    asked = asyncio.create_task(control.stopping())
    await asyncio.sleep(0)
    done = asked.done()
    asked.cancel()
    return done
