"""How late the event loop is: what blocks it holds up every loop and every request of the process (F23)."""

from __future__ import annotations

import time

from quantum_common.service.stop import Stop

EVERY_S = 0.25
WINDOW_S = 15.0
"""Three scrapes: a peak is kept for one to two windows, so that none falls between two scrapes."""


class EventLoopLag:
    """Asks to be woken every `EVERY_S` and keeps the worst delay of this window and the one before."""

    def __init__(self) -> None:
        self._due = self._window_ends = float("inf")
        self._now_worst = self._before_worst = 0.0

    @property
    def worst_s(self) -> float:
        """Seconds; a delay that still lasts counts."""
        return max(self._now_worst, self._before_worst, time.monotonic() - self._due)

    async def measure(self, stop: Stop) -> None:
        """The task that measures, until a stop is requested."""
        self._window_ends = time.monotonic() + WINDOW_S
        while not stop.requested:
            self._due = time.monotonic() + EVERY_S
            await stop.wait(EVERY_S)
            self.note(time.monotonic())

    def note(self, now: float) -> None:
        """Woken at `now`, which was due at the last asking; monotonic seconds."""
        if now >= self._window_ends:
            self._before_worst, self._now_worst, self._window_ends = self._now_worst, 0.0, now + WINDOW_S
        self._now_worst = max(self._now_worst, now - self._due)
