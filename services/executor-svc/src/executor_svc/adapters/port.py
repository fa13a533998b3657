"""What the executor asks of a venue. Errors: VenueUnreachable (nothing known), and where a caller has something to
refuse in turn (`submit`, `quote`) VenueRefused (no effect)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from executor_svc.core.book import Market, Order
from executor_svc.core.reports import OrderReport
from executor_svc.core.venue_facts import AccountSnapshot, Funding, OpenOrder, Quote, Trade


class VenuePort(Protocol):
    markets: Mapping[str, Market]
    """By symbol, after `start`."""
    skew_ms: int
    """Our clock less the venue's, when last measured."""

    async def start(self, symbols: Sequence[str]) -> None:
        """Load filters, measure the skew, set one-way, isolated, leverage 1. Raises RefusesToTrade when the venue
        then says otherwise (F20)."""

    async def measure_skew(self) -> None:
        """Ask the venue's clock again; later requests are stamped with its time."""

    async def submit(self, order: Order) -> OrderReport:
        """The request is stamped with the time at which the intent was written: the venue refuses it after the
        receive window, however long the sender was paused."""

    async def cancel(self, order: Order, asked_wall_ms: int) -> OrderReport | None:
        """None: the venue does not know the order as a live one; ask. Stamped like `submit`, with the given time."""

    async def look_up(self, order: Order) -> OrderReport | None:
        """By client order id; None = not found."""

    async def open_orders(self, symbol: str) -> list[OpenOrder]:
        """All that rest at the venue, ordinary and conditional, whoever made them."""

    async def cancel_open(self, order: OpenOrder, asked_wall_ms: int) -> None:
        """Cancel an order the book does not have; one that is gone already is no error. Stamped like `cancel`."""

    async def quote(self, symbol: str) -> Quote: ...

    async def trades(self, symbol: str, after_id: int) -> list[Trade]:
        """All of the account's trades with a greater id, oldest first."""

    async def newest_trade_id(self, symbol: str) -> int:
        """0 when there is none."""

    async def funding(self, symbol: str, since_ms: int) -> list[Funding]: ...

    async def account(self) -> AccountSnapshot: ...

    async def close(self) -> None: ...
