"""Settings of the executor. Paper is the default; live needs two settings that agree (F25)."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from executor_svc.core.approvals import Rules
from executor_svc.errors import RefusesToTrade
from quantum_common.domain.timeframe import DEFAULT_HORIZON_BARS
from quantum_common.service import FleetSettings


class ExecutorSettings(FleetSettings):
    service: ClassVar[str] = "executor-svc"

    mode: Literal["paper", "live"] = "paper"
    """paper or live."""
    live_confirm: str = ""
    """Live starts only when this repeats the account's name."""
    exchange: str = "binanceusdm"
    """ccxt id of the venue."""
    venue_url: str | None = None
    """Scheme and host that replace those of every address of the venue. Paper: exchange-sim, by default a local one."""
    venue_api_key: SecretStr | None = None
    """Live only."""
    venue_api_secret: SecretStr | None = None
    """Live only."""
    venue_timeout_ms: int = Field(5_000, gt=0)
    """Of one request."""
    venue_receive_window_ms: int = Field(3_000, gt=0, le=60_000)
    """A request that reaches the venue later than this after its timestamp is refused there (F26)."""
    max_skew_ms: int = Field(1_000, gt=0)
    """Clock difference to the venue above which the service is not ready (F35)."""
    horizon_bars: int = Field(DEFAULT_HORIZON_BARS, ge=1)
    """Bars after the decision at whose end a position is closed."""
    entry_price_margin_bps: Decimal = Field(Decimal(5), ge=0)
    """How far the fill may be above the price looked at without the order becoming larger than approved."""
    unfilled_trigger_ms: int = Field(5_000, gt=0)
    """A stop triggered but unfilled for longer becomes a market close."""
    look_every_s: float = Field(1.5, gt=0)
    """Live: how often the venue is asked while there is a position or an order."""
    reconcile_every_s: float = Field(30.0, gt=0)
    """Live: how often orders, positions and balance are compared with the venue\'s."""

    def check_mode(self) -> None:
        """Raises RefusesToTrade unless the mode is plain paper, or live and confirmed with keys and the wall clock."""
        if self.mode == "paper":
            if self.venue_api_key is not None or self.live_confirm:
                raise RefusesToTrade("paper mode takes neither QT_VENUE_API_KEY nor QT_LIVE_CONFIRM: unset them")
            return
        if self.live_confirm != self.account:
            raise RefusesToTrade("live mode needs QT_LIVE_CONFIRM to repeat QT_ACCOUNT")
        if self.account == "paper":
            raise RefusesToTrade("live mode needs QT_ACCOUNT to name the account; 'paper' is the paper account")
        if self.venue_api_key is None or self.venue_api_secret is None:
            raise RefusesToTrade("live mode needs QT_VENUE_API_KEY and QT_VENUE_API_SECRET")
        if self.clock != "live":
            raise RefusesToTrade("live mode needs QT_CLOCK=live")

    @property
    def base_url(self) -> str | None:
        """Where the requests go; None = the venue's own addresses."""
        if self.mode == "live":
            return self.venue_url
        return self.venue_url or f"http://127.0.0.1:{8090 + self.port_offset}"

    @property
    def credentials(self) -> tuple[str, str]:
        if self.venue_api_key is None or self.venue_api_secret is None:
            return "paper", "paper"
        return self.venue_api_key.get_secret_value(), self.venue_api_secret.get_secret_value()

    @property
    def rules(self) -> Rules:
        return Rules(
            horizon_bars=self.horizon_bars,
            entry_price_margin=self.entry_price_margin_bps / 10_000,
            unfilled_trigger_ms=None if self.clock == "replay" else self.unfilled_trigger_ms,
        )
