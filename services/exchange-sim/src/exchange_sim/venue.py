"""The venue in one process: the world, the account, and a commit after every command."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from exchange_sim import SimError, replay, trading
from exchange_sim.book import BookShape
from exchange_sim.errors import VenueError
from exchange_sim.market import Market, SymbolMarket
from exchange_sim.orders import AlgoOrder, Order
from exchange_sim.requests import Params, parse_algo, parse_order
from exchange_sim.rules import SymbolRules, rules_for
from exchange_sim.settings import SimSettings
from exchange_sim.state import VenueState
from exchange_sim.store import Fingerprint, Store
from quantum_common.candles import Candles, read_candles
from quantum_common.domain.timeframe import timeframe_ms

Result = TypeVar("Result")


class Venue:
    """Commands on the account. Each is committed before it returns; a refused one changes nothing."""

    def __init__(self, world: replay.World, store: Store, fingerprint: Fingerprint, start_ms: int) -> None:
        self.world = world
        self._store = store
        self._fingerprint = fingerprint
        self._start_ms = start_ms
        self.state: VenueState = store.open(fingerprint, start_ms)

    def rules(self, symbol: str | None) -> SymbolRules:
        try:
            return self.world.rules[symbol or ""]
        except KeyError:
            raise VenueError(-1121 if symbol else -1102, "symbol") from None

    def mark(self, symbol: str) -> Decimal:
        """Last price on the venue's grid."""
        return self.world.price(symbol, self.state.now_ms)

    def place_order(self, params: Params) -> Order:
        rules = self._trading_rules(params)
        request = parse_order(params, rules)
        return self.command(lambda: trading.place_order(self.state, request, rules, self.world.terms, self.mark))

    def place_algo(self, params: Params) -> AlgoOrder:
        rules = self._trading_rules(params)
        request = parse_algo(params, rules)
        return self.command(lambda: trading.place_algo(self.state, request, rules, self.mark))

    def advance(self, to_ms: int) -> bool:
        """Move the clock; True when it halted at a fill or trigger before `to_ms`."""
        if to_ms < self.state.now_ms:
            raise VenueError(-1130, "to_ms")
        return self.command(lambda: replay.advance(self.state, self.world, to_ms))

    def command(self, change: Callable[[], Result]) -> Result:
        """Run one change and commit it."""
        result = change()
        try:
            self._store.commit(self.state)
        except sqlite3.Error:
            # Memory is ahead of the disk: go back to what was acknowledged.
            self.state = self._store.open(self._fingerprint, self._start_ms)
            raise
        return result

    def close(self) -> None:
        self._store.close()

    def _trading_rules(self, params: Params) -> SymbolRules:
        rules = self.rules(params.get("symbol"))
        if self.world.market.symbols[rules.symbol].newest(self.state.now_ms) < 0:
            raise VenueError(-4140)
        return rules


def open_venue(settings: SimSettings) -> Venue:
    """Read the candles and open the account. Raises CandleFileError or SimError when either cannot be used."""
    world = load_world(settings)
    start_ms = settings.start_ms or world.market.common_start_ms
    fingerprint = Fingerprint(
        settings.sim_candle_venue, settings.symbols, settings.timeframe, settings.sim_initial_balance
    )
    return Venue(world, Store(settings.database), fingerprint, start_ms)


def load_world(settings: SimSettings) -> replay.World:
    """Bars, filters and funding rates of the configured symbols."""
    if not settings.symbols:
        raise SimError("no symbols: set QT_SYMBOLS")
    step_ms = timeframe_ms(settings.timeframe)
    market = Market(
        {symbol: SymbolMarket(symbol, _candles(settings, symbol), step_ms) for symbol in settings.symbols},
        settings.timeframe,
        step_ms,
    )
    shape = BookShape(settings.sim_spread_bps, settings.sim_slippage_bps, settings.sim_depth_usd)
    history = {
        symbol: read_funding(settings.sim_data_dir, settings.sim_candle_venue, symbol) for symbol in settings.symbols
    }
    return replay.World(
        market,
        {symbol: rules_for(symbol) for symbol in settings.symbols},
        trading.Terms(settings.sim_taker_fee_bps, settings.sim_maker_fee_bps, shape),
        settings.sim_funding_rate,
        history,
    )


def _candles(settings: SimSettings, symbol: str) -> Candles:
    return read_candles(settings.sim_data_dir, settings.sim_candle_venue, symbol, settings.timeframe)


def read_funding(data_dir: Path, venue: str, symbol: str) -> Mapping[int, Decimal]:
    """Historic rates from `<venue>_<SYMBOL>_funding.parquet` (columns ts, rate); empty without the file."""
    import pyarrow.parquet as pq

    path = data_dir / f"{venue}_{symbol}_funding.parquet"
    if not path.is_file():
        return {}
    table = pq.read_table(path, columns=["ts", "rate"], use_threads=False)
    return {
        int(ts): Decimal(repr(float(rate)))
        for ts, rate in zip(table["ts"].to_pylist(), table["rate"].to_pylist(), strict=True)
    }
