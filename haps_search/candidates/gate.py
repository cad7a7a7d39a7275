"""The gate before a server: so many requests at a time, so many a minute, and none while it wants to be left alone."""

from __future__ import annotations

import asyncio


class Gate:
    """An async context per request, on one event loop."""

    def __init__(self, concurrency: int, per_minute: float | None = None) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._every_s = 60.0 / per_minute if per_minute is not None else 0.0
        self._next = self._rests_until = 0.0

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        try:
            await self._turn()
        except BaseException:
            self._slots.release()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._slots.release()

    def rest(self, seconds: float) -> None:
        """Nobody passes for so long."""
        self._rests_until = max(self._rests_until, _now() + seconds)
        self._next = max(self._next, self._rests_until)

    async def _turn(self) -> None:
        """Until this request's moment has come; one that the server's rest has overtaken takes another."""
        while True:
            now = _now()
            turn = max(self._next, now)
            self._next = turn + self._every_s
            if turn > now:
                await asyncio.sleep(turn - now)
            if self._rests_until <= _now():
                return


def _now() -> float:
    return asyncio.get_running_loop().time()
