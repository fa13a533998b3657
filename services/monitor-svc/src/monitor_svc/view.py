"""What both dashboards and the API show. Frozen; money in USD as Decimal, shares in percent, ages in seconds.

None means unknown, and the source beside it says why.
"""

from __future__ import annotations

import msgspec

from monitor_svc.view_of_fleet import Activity, MetaLayer, Models, Risk, Services, Streams, Variety, Window
from monitor_svc.view_of_market import Account, Decisions, Prices, Verdicts


class View(msgspec.Struct, frozen=True):
    """Everything at one moment."""

    updated_at_ms: int
    """Wall clock."""
    account: str
    timeframe: str
    clock: str
    window: Window
    activity: Activity
    variety: Variety
    risk: Risk
    meta: MetaLayer
    prices: Prices
    money: Account
    decisions: Decisions
    verdicts: Verdicts
    models: Models
    streams: Streams
    services: Services


_encoder = msgspec.json.Encoder(decimal_format="string")


def encode_view(view: View) -> bytes:
    """JSON with money as decimal strings."""
    return _encoder.encode(view)
