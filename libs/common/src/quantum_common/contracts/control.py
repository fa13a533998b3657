"""Wake-ups for every instance. The truth is elsewhere: the venue's clock, the `current` pointer, the state keys."""

from typing import Literal

import msgspec


class Look(msgspec.Struct, frozen=True):
    """Something happened: look at it."""

    subject: Literal["clock", "models", "config", "flatten"]
    market_ts_ms: int | None = None
    """Venue time after the conductor moved it; None for other subjects."""
