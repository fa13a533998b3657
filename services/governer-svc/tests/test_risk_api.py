"""HTTP contract of the risk service."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from pydantic import SecretStr

from governer_svc.api import router
from governer_svc.app import RiskService
from governer_svc.settings import Settings
from governer_svc.state import Account
from governer_svc.store import Change
from quantum_common.bus import MemoryBus
from quantum_common.service import Service, build_app

TOKEN = {"Authorization": "Bearer secret"}
NOW = 1_700_000_000_000


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(state_dir=tmp_path, api_token=SecretStr("secret"))
    risk = RiskService(settings, MemoryBus(), clock=lambda: NOW)
    await risk.store.ensure_loaded()
    funded = Account(Decimal(10_000), Decimal(9_000), NOW, 3_600_000, 1, {"BTCUSDT": Decimal(5)})
    await risk.store.commit(lambda state, config: Change(replace(state, account=funded, peak_equity=Decimal(10_000))))
    service = Service(settings, {}, [router(risk, settings)], risk.not_ready)
    transport = httpx.ASGITransport(build_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://governer") as client:
        yield client


async def test_the_status_tells_balance_drawdown_exposure_and_state(client: httpx.AsyncClient) -> None:
    body = (await client.get("/api/risk/status")).json()
    assert (body["current_balance"], body["equity"], body["drawdown"]) == (10_000, 9_000, 0.1)
    assert (body["exposure_usd"], body["exposure_limit_usd"]) == (0, 5_000)
    assert (body["trading_state"], body["max_daily_trades"]) == ("ACTIVE", 20)


async def test_the_config_is_the_documented_default(client: httpx.AsyncClient) -> None:
    body = (await client.get("/api/risk/config")).json()
    assert body["max_position_size_pct"] == 0.10
    assert body["max_total_exposure_pct"] == 0.50
    assert body["max_drawdown_pct"] == 0.15
    assert body["min_confidence_threshold"] == 0.65
    assert body["kelly_fraction"] == 0.25
    assert body["cooldown_after_loss_minutes"] == 60
    assert body["max_daily_trades"] == 20
    assert body["risk_per_trade_pct"] == 0.02
    assert body["max_daily_loss_pct"] is None
    assert body["max_signal_age_s"] == 60
    assert body["emergency_stop"] is False


async def test_a_patch_changes_what_it_names_and_records_who_when_why(client: httpx.AsyncClient) -> None:
    patch = {"max_daily_trades": 5, "max_daily_loss_pct": 0.05, "who": "ada", "reason": "volatile week"}
    body = (await client.patch("/api/risk/config", json=patch, headers=TOKEN)).json()
    assert (body["max_daily_trades"], body["max_daily_loss_pct"], body["kelly_fraction"]) == (5, 0.05, 0.25)
    assert body["changed_at_run_time"] == ["max_daily_loss_pct", "max_daily_trades"]
    changes = {"max_daily_trades": 5, "max_daily_loss_pct": 0.05}
    assert body["changes"] == [{"at_ms": NOW, "who": "ada", "why": "volatile week", "changes": changes}]


@pytest.mark.parametrize(
    "patch",
    [
        {"reason": "x"},
        {"max_daily_trades": 5},
        {"max_daily_trades": 5, "reason": ""},
        {"max_daily_trade": 5, "reason": "typo"},
        {"max_drawdown_pct": 15, "reason": "percent for fraction"},
        {"max_drawdown_pct": None, "reason": "no null"},
        {"kelly_mode": "bold", "reason": "unknown"},
        {"allow_short": True, "reason": "belongs to the market"},
        {"kelly_fraction": "much", "reason": "text"},
    ],
)
async def test_a_bad_patch_is_refused_and_changes_nothing(client: httpx.AsyncClient, patch: dict[str, object]) -> None:
    assert (await client.patch("/api/risk/config", json=patch, headers=TOKEN)).status_code == 422
    assert (await client.get("/api/risk/config")).json()["changes"] == []


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
async def test_mutations_need_the_token(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    patch = {"max_daily_trades": 5, "reason": "x"}
    assert (await client.patch("/api/risk/config", json=patch, headers=headers)).status_code == 401
    stop = {"active": True, "reason": "x"}
    assert (await client.post("/api/risk/emergency_stop", json=stop, headers=headers)).status_code == 401
    assert (await client.get("/api/risk/status")).json()["emergency_stop"] is False


async def test_the_emergency_stop_goes_on_and_off(client: httpx.AsyncClient) -> None:
    on = {"active": True, "reason": "exchange outage", "flatten": True}
    body = (await client.post("/api/risk/emergency_stop", json=on, headers=TOKEN)).json()
    assert (body["emergency_stop"], body["trading_state"]) == (True, "REDUCING")
    question = {"symbol": "btcusdt", "action": "buy", "confidence": 0.9}
    assert (await client.post("/api/risk/allocate", json=question)).json()["reason"] == "EMERGENCY_STOP_ACTIVE"
    off = {"active": False, "reason": "over"}
    body = (await client.post("/api/risk/emergency_stop", json=off, headers=TOKEN)).json()
    assert (body["emergency_stop"], body["trading_state"]) == (False, "ACTIVE")


async def test_a_what_if_sizes_without_reserving(client: httpx.AsyncClient) -> None:
    question = {"symbol": "BTCUSDT", "action": "BUY", "confidence": 0.92}
    for _ in range(2):
        body = (await client.post("/api/risk/allocate", json=question)).json()
        assert (body["approved"], body["position_size_usd"]) == (True, "821.42")
    status = (await client.get("/api/risk/status")).json()
    assert (status["daily_trades"], status["reservations"]) == (0, {})


@pytest.mark.parametrize("symbol", ["DOGEUSDT", "BTC USDT"])
async def test_a_what_if_for_an_unknown_symbol_is_refused(client: httpx.AsyncClient, symbol: str) -> None:
    question = {"symbol": symbol, "action": "BUY", "confidence": 0.92}
    assert (await client.post("/api/risk/allocate", json=question)).json()["reason"] == "NO_EQUITY"


async def test_readiness_says_what_is_missing(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/ready")).status_code == 200
