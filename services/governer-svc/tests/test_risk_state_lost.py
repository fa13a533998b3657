"""The server came back without the risk state: nothing is approved until a person has looked."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from governer_svc.app import RiskService, build
from governer_svc.settings import Settings
from governer_svc.state import LOST
from governer_svc.view import Mirror, traded_before
from quantum_common.bus import Bus, BusUnavailable, Consumer, MemoryBus, RedisBus, Status, Unit
from quantum_common.contracts import (
    ALLOCATIONS,
    DECISIONS,
    EXECUTIONS,
    FEATURES,
    AccountUpdated,
    Candle,
    DecisionMade,
    FeaturesComputed,
    Producer,
    decode,
    encode,
    envelope,
)
from quantum_common.domain.signal import Action
from quantum_common.service import build_app
from quantum_common.testing import running_server

HOUR = 3_600_000
BAR = 480_000 * HOUR
CLOSE = BAR + HOUR
BTC = "BTCUSDT"


class Account:
    """The governer of one account in one state folder, on whatever bus there is."""

    def __init__(self, folder: Path, bus: Bus, **settings: str) -> None:
        self.settings = Settings(clock="replay", state_dir=folder, api_token=SecretStr("t"), **settings)
        self.start(bus)

    def start(self, bus: Bus) -> None:
        """A new process."""
        self.bus = bus
        self.risk = RiskService(self.settings, bus, clock=lambda: CLOSE)
        self.mirror = Mirror(self.settings.mirror_path, self.settings.account, self.risk.store, self.risk.lease)
        self.consumer = Consumer(bus, self.settings.keys.subscribed("governer-svc"), "governer-svc", "1")

    async def turn(self) -> None:
        await self.consumer.start()
        await self.risk.start()
        while batch := await self.consumer.read(20):
            await self.consumer.handle(batch, self.risk.handle)
        await self.mirror.write()

    async def publish(self, stream: str, payload: object, service: str, bar: int, symbol: str = BTC) -> None:
        event = envelope(
            payload,
            producer=Producer(service, "1", "0"),
            produced_at_ms=0,
            symbol=symbol,
            timeframe="1h",
            bar_ts_ms=bar,
            natural_key=str(bar),
        )
        await self.bus.append(stream, encode(event))

    async def trade(self, bar: int = BAR) -> str:
        """A bar with a clear BUY; the governer's answer."""
        keys = self.settings.keys
        account = AccountUpdated(
            "bar", Decimal(10_000), Decimal(10_000), (), bar + HOUR, bar, bar // HOUR, {BTC: Decimal(5)}
        )
        features = FeaturesComputed(Candle(1, 1, 1, 1, 1), (0.0,) * 18, 0.5, 0.0, "h", 0, 1)
        buy = DecisionMade(
            action=Action.BUY,
            confidence=0.9,
            reason="r",
            use_meta=False,
            meta_action=None,
            meta_confidence=None,
            base_ensemble_action=Action.BUY,
            base_ensemble_confidence=0.9,
            consensus_strength=0.5,
            votes=(),
            explanation=None,
            trigger="complete",
            input_event_ids=(),
            meta_version="v2",
            meta_model_version=None,
            volatility=0.5,
            trend_strength=0.0,
        )
        await self.publish(keys.stream(EXECUTIONS), account, "executor-svc", bar, "")
        await self.publish(keys.stream(FEATURES, BTC), features, "feature-svc", bar)
        await self.publish(keys.stream(DECISIONS, BTC), buy, "meta-svc", bar)
        await self.turn()
        [newest] = await self.bus.newest(keys.stream(ALLOCATIONS), 1)
        payload = decode(newest.data).payload
        return str(getattr(payload, "reason", ""))

    async def told(self) -> str:
        """What the executor reads."""
        return (await self.bus.state(self.settings.keys.account_state("governer-svc"))).fields["trading_state"]

    async def resume(self) -> None:
        service = build(self.settings, self.bus)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(service)), base_url="http://x") as client:
            body = {"trading_state": "ACTIVE", "reason": "positions checked", "who": "ada"}
            answer = await client.patch("/api/risk/config", json=body, headers={"Authorization": "Bearer t"})
            assert answer.status_code == 200, answer.text


async def test_a_state_folder_used_for_the_first_time_starts_active(tmp_path: Path) -> None:
    account = Account(tmp_path, MemoryBus())
    await account.turn()
    assert await account.told() == "ACTIVE"
    account.start(MemoryBus())
    await account.turn()
    assert await account.told() == "ACTIVE", "it never traded: its mirror names no last state"


async def test_an_ordinary_restart_and_a_takeover_halt_nothing(tmp_path: Path) -> None:
    account = Account(tmp_path, MemoryBus())
    assert await account.trade() == "APPROVED"
    for instance in ("1", "2"):
        account = Account(tmp_path, account.bus, instance=instance)
        await account.turn()
        assert (await account.told(), account.risk.not_ready()) == ("ACTIVE", [])


@pytest.mark.parametrize("losses", [1, 2])
async def test_f28_an_account_that_traded_is_halted_on_an_empty_server_until_a_person_resumes_it(
    tmp_path: Path, losses: int
) -> None:
    account = Account(tmp_path, MemoryBus())
    assert await account.trade() == "APPROVED"
    for _ in range(losses):
        account.start(MemoryBus())
        await account.turn()
        account.start(account.bus)
    assert await account.trade(BAR + HOUR) == "TRADING_HALTED"
    assert await account.told() == "HALTED"
    assert account.risk.not_ready() == [LOST]
    [change] = account.risk.store.state.changes
    assert (change.who, change.why, change.changes) == ("governer-svc", LOST, {"trading_state": "HALTED"})
    await account.resume()
    await account.turn()
    assert (await account.told(), account.risk.not_ready()) == ("ACTIVE", [])
    assert await account.trade(BAR + 2 * HOUR) == "APPROVED"


async def test_f28_a_server_emptied_under_a_running_governer_halts_it_at_once(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as url:
        bus = RedisBus.connect(url)
        account = Account(tmp_path, bus)
        assert await account.trade() == "APPROVED"
        account.settings.mirror_path.unlink()
        await bus._redis.flushall()
        await bus._redis.function_flush()
        assert await account.trade(BAR + HOUR) == "TRADING_HALTED"
        assert await account.told() == "HALTED"
        await bus._redis.flushall()
        await account.risk.change_limits({"max_daily_trades": 3}, who="ada", why="calm")
        assert await account.told() == "HALTED", "a change on top of the lost state lifts nothing"
        await account.consumer.stop()
        await bus.close()


class TakesNothing(MemoryBus):
    """Came back empty, and at first refuses every commit."""

    async def commit(self, units: Sequence[Unit]) -> list[Status]:
        raise BusUnavailable("not yet")


async def test_f28_a_loss_that_could_not_be_written_at_once_is_not_forgotten(tmp_path: Path) -> None:
    account = Account(tmp_path, MemoryBus())
    assert await account.trade() == "APPROVED"
    account.settings.mirror_path.unlink()
    account.risk.store._bus = TakesNothing()
    for _ in range(2):
        with pytest.raises(BusUnavailable):
            await account.risk.start()
    account.bus = account.risk.store._bus = MemoryBus()
    await account.risk.start()
    assert await account.told() == "HALTED"


def test_the_mirror_of_another_account_says_nothing_and_one_that_is_cut_short_says_stop(tmp_path: Path) -> None:
    mirror = tmp_path / "governer_state.json"
    assert not traded_before(mirror, "paper")
    mirror.write_text('{"last_updated": "2026-01-01T00:00:00+00:00", "account": "other"}')
    assert not traded_before(mirror, "paper")
    assert traded_before(mirror, "other")
    mirror.write_text('{"last_updated": "2026-01-01T00:00:00+00:00"}')
    assert traded_before(mirror, "paper"), "written before mirrors named their account"
    mirror.write_text('{"last_upd')
    assert traded_before(mirror, "paper")
