"""Market time: bar time in a replay, wall time live. Cores get it as an argument."""

import time
from typing import Literal


class MarketClock:
    """`live`: the wall clock. `replay`: the newest market time told by the control stream or seen in an event."""

    def __init__(self, mode: Literal["live", "replay"]) -> None:
        self.mode = mode
        self._replay_ms = 0

    @property
    def is_replay(self) -> bool:
        return self.mode == "replay"

    def now_ms(self) -> int:
        return self._replay_ms if self.is_replay else wall_ms()

    def advance(self, market_ts_ms: int) -> None:
        """Replay: move forward, never back. Live: no effect."""
        self._replay_ms = max(self._replay_ms, market_ts_ms)


def wall_ms() -> int:
    """Wall clock, UTC milliseconds."""
    return time.time_ns() // 1_000_000
