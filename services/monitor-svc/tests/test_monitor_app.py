"""The monitor on the in-memory bus, asking the real routes of other services over HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from pydantic import SecretStr

from browser.line import HOUR_MS, Line
from governer_svc.api import router as risk_router
from governer_svc.app import RiskService
from governer_svc.settings import Settings as GovernerSettings
from governer_svc.state import Account
from governer_svc.store import Change
from monitor_svc.app import Monitor
from monitor_svc.core import Choice
from monitor_svc.documents import RiskStatus
from monitor_svc.facts import READ_STREAMS
from monitor_svc.pages import POLICY, ago, here
from monitor_svc.settings import Settings
from quantum_common.bus import Bus, BusUnavailable, Entry, MemoryBus
from quantum_common.domain import SERVICE_PORTS, Action
from quantum_common.service import Service, build_app
from recorder_svc.api import streams_router
from recorder_svc.settings import Settings as RecorderSettings
from recorder_svc.watch import Watch

NOW = 1_700_000_000_000
BAR = NOW // HOUR_MS * HOUR_MS - HOUR_MS
BTC = "BTCUSDT"
EVIL = "<script>alert(1)</script>"


async def governer(bus: MemoryBus, state_dir: Path, token: str | None = "secret") -> Service:
    """The real routes over a funded account."""
    secret = SecretStr(token) if token else None
    settings = GovernerSettings(state_dir=state_dir, api_token=secret)
    risk = RiskService(settings, bus, clock=lambda: NOW)
    await risk.store.ensure_loaded()
    funded = Account(Decimal("10031.29"), Decimal("9900.5"), NOW, BAR, 1, {BTC: Decimal(5)})
    await risk.store.commit(lambda state, config: Change(replace(state, account=funded, peak_equity=Decimal(10_100))))
    return Service(settings, {}, [risk_router(risk, settings)])


async def watched(bus: MemoryBus, state_dir: Path) -> Service:
    """The recorder's real routes after one look at the streams."""
    settings = RecorderSettings(state_dir=state_dir)
    watch = Watch(settings, bus)
    await watch.look()
    return Service(settings, {}, [streams_router(watch)])


@asynccontextmanager
async def monitor(bus: Bus, *services: Service) -> AsyncIterator[tuple[Monitor, httpx.AsyncClient]]:
    """A monitor that has looked around once and reaches these services at their ports; and a client of its pages."""
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {
        f"http://127.0.0.1:{SERVICE_PORTS[each.settings.service]}": httpx.ASGITransport(build_app(each))
        for each in services
    }
    async with httpx.AsyncClient(mounts={"http://": Nobody(), **mounts}) as client:
        made = Monitor(Settings(), bus, client, lambda: NOW)
        await made.reader.turn()
        await made.poller.turn()
        transport = httpx.ASGITransport(build_app(made.service()))
        async with httpx.AsyncClient(transport=transport, base_url="http://monitor") as web:
            yield made, web


class Nobody(httpx.AsyncBaseTransport):
    """A port on which nothing listens."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")


async def test_the_view_holds_what_governer_and_recorder_answer(tmp_path: Path) -> None:
    bus = MemoryBus()
    line = Line(bus, NOW)
    await bus.ensure_group("{p00}:features", "xgb-agent")
    await line.bar(BTC, BAR)
    async with monitor(bus, await governer(bus, tmp_path), await watched(bus, tmp_path)) as (_, web):
        seen = (await web.get("/api/monitor/view")).json()
    assert (seen["risk"]["balance_usd"], seen["risk"]["equity_usd"]) == ("10031.29", "9900.5")
    assert (seen["risk"]["max_drawdown_pct"], seen["risk"]["max_trades_today"]) == (15.0, 20)
    features = next(row for row in seen["streams"]["streams"] if row["stream"] == "{p00}:features")
    lags = {row["group"]: (row["missing"], row["lag"]) for row in features["groups"]}
    assert (lags["xgb-agent"], lags["lgbm-agent"][0]) == ((False, 1), True)
    rows = {row["name"]: row for row in seen["services"]["rows"]}
    assert [rows[name]["state"] for name in ("governer-svc", "xgb-agent", "trainer-svc")] == [
        "ready", "down", "not running",
    ]  # fmt: skip
    assert rows["xgb-agent"]["reasons"] == ["xgb-agent cannot be reached"]


async def test_an_answer_of_another_shape_is_told_and_the_last_good_one_stays(tmp_path: Path) -> None:
    bus = MemoryBus()
    async with monitor(bus, await governer(bus, tmp_path)) as (made, _):
        await made.poller._ask("governer-svc", "/api/risk/config", made.facts.risk, RiskStatus)
        risk = made.view().risk
    assert "another shape" in risk.source.problem
    assert risk.balance_usd == Decimal("10031.29")


class Away(MemoryBus):
    """A bus whose server can be taken away."""

    away = False

    async def tail(self, *arguments: Any, **named: Any) -> list[Entry]:
        if self.away:
            raise BusUnavailable("refused")
        return await super().tail(*arguments, **named)


async def test_the_monitor_is_not_ready_while_the_server_is_away_and_goes_on_after_it() -> None:
    bus = Away()
    line = Line(bus, NOW)
    await line.bar(BTC, BAR)
    async with monitor(bus) as (made, web):
        assert (await web.get("/health/ready")).status_code == 200
        bus.away = True
        await made.reader.turn()
        ready = await web.get("/health/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["bus unavailable: refused"])
        bus.away = False
        await line.bar(BTC, BAR + HOUR_MS)
        await made.reader.turn()
        assert made.view().window.newest_bar_ms == BAR + HOUR_MS
        assert (await web.get("/health/ready")).status_code == 200


async def test_a_monitor_that_fell_behind_begins_again_at_the_newest_entries() -> None:
    bus = MemoryBus()
    line = Line(bus, NOW)
    await line.bar(BTC, BAR)
    async with monitor(bus) as (made, _):
        for number in range(1, 1_200):
            await line.bar(BTC, BAR + number * HOUR_MS)
        await made.reader.turn()
        await made.reader.turn()
        assert made.view().window.newest_bar_ms == BAR + 1_199 * HOUR_MS


async def test_no_group_is_left_on_any_stream() -> None:
    bus = MemoryBus()
    async with monitor(bus) as (made, _):
        await made.reader.turn()
    streams = [name for spec in READ_STREAMS for name in Settings().keys.all_streams(spec)]
    assert all(not info.groups for info in (await bus.stream_infos(streams)).values())


async def test_an_entry_that_is_no_event_is_passed_over() -> None:
    bus = MemoryBus()
    line = Line(bus, NOW)
    await bus.append("{p00}:features", b"poison")
    await line.bar(BTC, BAR)
    async with monitor(bus) as (made, _):
        assert made.view().window.newest_bar_ms == BAR


async def busy_page(bus: MemoryBus, tmp_path: Path, query: str = "") -> httpx.Response:
    line = Line(bus, NOW)
    for number in range(3):
        await line.bar(BTC, BAR + number * HOUR_MS, 100.0 + number)
        await line.votes(BTC, BAR + number * HOUR_MS, Action.BUY)
        decided = await line.decide(BTC, BAR + number * HOUR_MS, Action.BUY)
        await line.reject(decided, BTC, BAR + number * HOUR_MS, Action.BUY, "POSITION_OPEN", "POSITION_OPEN")
        await line.account("10000", str(10_000 + number), BAR + number * HOUR_MS)
        await line.close(BTC, BAR + number * HOUR_MS, "4.5")
    await line.fill(BTC, BAR, "101")
    async with monitor(bus, await governer(bus, tmp_path), await watched(bus, tmp_path)) as (_, web):
        return await web.get(f"/{query}")


async def test_f24_every_tile_of_the_page_names_its_source_and_its_age(tmp_path: Path) -> None:
    for bus in (MemoryBus(), None):  # with facts, and without any
        page = await busy_page(bus, tmp_path) if bus else await empty_page()
        tiles = re.findall(r'<section class="tile.*?</section>', page.text, re.DOTALL)
        assert len(tiles) == 15
        for tile in tiles:
            assert re.search(r'<span class="source">[^<]+</span>', tile), tile
            assert re.search(r'<span class="age"[^>]*>[^<]+</span>', tile), tile
            if ">never</span>" in tile:
                assert re.search(r'<span class="problem">[^<]+</span>', tile), tile
                assert " stale" in tile.splitlines()[0], tile


async def empty_page() -> httpx.Response:
    async with monitor(MemoryBus()) as (_, web):
        return await web.get("/")


async def test_the_page_explains_the_newest_decision(tmp_path: Path) -> None:
    page = (await busy_page(MemoryBus(), tmp_path)).text
    for words in ("meta_low_confidence_0.58", "xgb_buy", "−0.750", "POSITION_OPEN", "$10,002.00", "+4.50"):
        assert words in page, words


async def test_pages_allow_no_foreign_and_no_inline_script_or_style(tmp_path: Path) -> None:
    page = await busy_page(MemoryBus(), tmp_path)
    assert page.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert not re.search(r"<style|style=|\son\w+=|<script(?! src=\"/static/)", page.text)
    assert "http" not in page.text.replace("http://www.w3.org/", "")


async def test_what_comes_from_outside_is_escaped_everywhere(tmp_path: Path) -> None:
    bus = MemoryBus()
    line = Line(bus, NOW)
    await line.bar(EVIL, BAR)
    await line.vote(EVIL, BTC, BAR, Action.BUY)
    decided = await line.decide(EVIL, BAR, Action.BUY, EVIL)
    await line.reject(decided, EVIL, BAR, Action.BUY, EVIL, EVIL)
    async with monitor(bus) as (_, web):
        for path in ("/", "/tiles"):
            page = await web.get(path, params={"symbol": EVIL, "decision": f'"{EVIL}'})
            assert page.status_code == 422 or EVIL not in page.text
            assert EVIL not in (await web.get(path)).text
        assert "&lt;script&gt;" in (await web.get("/")).text


async def test_a_choice_stays_in_every_link(tmp_path: Path) -> None:
    page = (await busy_page(MemoryBus(), tmp_path, "?symbol=BTCUSDT&decision=abc")).text
    assert 'href="?symbol=BTCUSDT&amp;decision=abc"' in page
    assert here(Choice("A&B", None), decision="x y") == "?symbol=A%26B&decision=x+y"


def form(**changed: str) -> dict[str, str]:
    return {"active": "on", "reason": "exchange outage", "token": "secret"} | changed


async def test_the_emergency_stop_goes_through_with_the_token_and_is_undone_the_same_way(tmp_path: Path) -> None:
    bus = MemoryBus()
    async with monitor(bus, await governer(bus, tmp_path)) as (made, web):
        answer = await web.post("/emergency-stop", data=form())
        assert (answer.status_code, "The emergency stop is on." in answer.text) == (200, True)
        await made.poller.turn()
        risk = made.view().risk
        assert (risk.emergency_stop, risk.trading_state) == (True, "REDUCING")
        assert risk.last_change
        assert (risk.last_change.who, risk.last_change.why) == ("dashboard", "exchange outage")
        assert 'value="off"' in (await web.get("/emergency-stop")).text
        await web.post("/emergency-stop", data=form(active="off"))
        await made.poller.turn()
        assert made.view().risk.emergency_stop is False


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"token": "wrong"}, "refused the token"),
        ({"token": ""}, "give the API token"),
        ({"token": "schlüssel"}, "give the API token"),
        ({"token": "a\r\nX-Evil: 1"}, "give the API token"),
        ({"reason": ""}, "give a reason"),
        ({"reason": "x" * 501}, "give a reason"),
        ({"active": "perhaps"}, "on or off"),
    ],
)
async def test_a_stop_that_is_not_right_changes_nothing_and_says_why(
    tmp_path: Path, changed: dict[str, str], words: str
) -> None:
    bus = MemoryBus()
    async with monitor(bus, await governer(bus, tmp_path)) as (made, web):
        answer = await web.post("/emergency-stop", data=form(**changed))
        assert answer.status_code == 400
        assert words in answer.text
        await made.poller.turn()
        assert made.view().risk.emergency_stop is False


async def test_the_form_says_when_governer_takes_no_changes_or_does_not_answer(tmp_path: Path) -> None:
    bus = MemoryBus()
    async with monitor(bus, await governer(bus, tmp_path, token=None)) as (_, web):
        assert "has no token set" in (await web.post("/emergency-stop", data=form())).text
    async with monitor(bus) as (_, web):
        assert "did not answer (ConnectError)" in (await web.post("/emergency-stop", data=form())).text


async def test_the_token_is_neither_logged_nor_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    bus = MemoryBus()
    async with monitor(bus, await governer(bus, tmp_path)) as (_, web):
        for token in ("secret", "almost-secret"):
            assert "secret" not in (await web.post("/emergency-stop", data=form(token=token))).text
    assert "secret" not in caplog.text


async def test_a_form_too_long_is_not_read(tmp_path: Path) -> None:
    bus = MemoryBus()
    async with monitor(bus, await governer(bus, tmp_path)) as (made, web):
        assert (await web.post("/emergency-stop", data=form(more="x" * 10_000))).status_code == 400
        await made.poller.turn()
        assert made.view().risk.emergency_stop is False


async def test_only_the_named_files_are_served() -> None:
    async with monitor(MemoryBus()) as (_, web):
        assert (await web.get("/static/style.css")).status_code == 200
        for path in ("/static/page.html.jinja", "/static/..%2Fapp.py", "/static/none"):
            assert (await web.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("age_s", "words"),
    [(None, "never"), (0.4, "0 s ago"), (89.4, "89 s ago"), (90, "2 min ago"), (7_200, "2 h ago"), (2e5, "2 d ago")],
)
def test_ages_are_told_in_words(age_s: float | None, words: str) -> None:
    assert ago(age_s) == words
