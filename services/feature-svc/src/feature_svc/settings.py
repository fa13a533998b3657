"""Settings of feature-svc, beside those every service has."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from quantum_common.features import WARMUP_BARS
from quantum_common.service import FleetSettings


class Settings(FleetSettings):
    service: ClassVar[str] = "feature-svc"

    exchange: str = "binanceusdm"
    """ccxt id of the venue."""
    venue_url: str | None = None
    """Scheme and host that replace those of every address of the venue."""
    venue_timeout_ms: int = Field(5_000, gt=0)
    """Of one request."""
    from_ms: int | None = None
    """Open time of the first bar to publish; earlier ones are warm-up. Without it: the newest closed one at start."""
    warmup_bars: int = Field(WARMUP_BARS, ge=20)
    """Part of the feature hash: models trained with another warm-up are refused."""
    late_bar_wait_ms: int = Field(5_000, ge=0)
    """Live: how long a closed bar's other symbols wait for one that the venue does not have yet."""
    poll_ms: int = Field(500, gt=0)
    """Live: how often the venue is asked while a closed bar is not there yet."""
