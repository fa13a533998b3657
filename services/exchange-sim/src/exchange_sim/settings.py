"""Settings of the paper venue."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from exchange_sim.synthetic import VENUE, trading_from_ms
from quantum_common.service import FleetSettings


class SimSettings(FleetSettings):
    """`QT_SIM_*` beside the fleet's own settings. Money in USDT, fees and distances in basis points."""

    service: ClassVar[str] = "exchange-sim"

    sim_data_dir: Path = Path("data")
    """Folder of candle files."""
    sim_candle_venue: str = "binance"
    """Which files are replayed: `<venue>_<SYMBOL>_<timeframe>.parquet`."""
    sim_start_ms: int | None = None
    """Market time of a new account, UTC ms; default: the first moment at which every symbol has a bar, or where the
    synthetic market's training part ends."""
    sim_database: Path | None = None
    """SQLite file; default `<state_dir>/exchange-sim.db`."""
    sim_initial_balance: Decimal = Field(Decimal(10_000), gt=0)
    """USDT of a new account."""
    sim_taker_fee_bps: Decimal = Field(Decimal(5), ge=0)
    """Of notional."""
    sim_maker_fee_bps: Decimal = Field(Decimal(2), ge=0)
    """Of notional."""
    sim_spread_bps: Decimal = Field(Decimal(1), ge=0)
    """Best ask to best bid."""
    sim_slippage_bps: Decimal = Field(Decimal("0.5"), ge=0)
    """Distance of one book level from the next."""
    sim_depth_usd: Decimal = Field(Decimal(25_000), gt=0)
    """Notional resting on each book level."""
    sim_funding_rate: Decimal = Decimal("0.0001")
    """Fraction of notional per 8 hours, where no funding file has the rate."""
    sim_api_key: SecretStr = SecretStr("paper")
    """What a client must sign with."""
    sim_api_secret: SecretStr = SecretStr("paper")
    """What a client must sign with."""

    @property
    def database(self) -> Path:
        return self.sim_database or self.state_dir / "exchange-sim.db"

    @property
    def start_ms(self) -> int | None:
        """None: the first moment at which every symbol has a bar."""
        if self.sim_start_ms is None and self.sim_candle_venue == VENUE:
            return trading_from_ms(self.timeframe)
        return self.sim_start_ms
