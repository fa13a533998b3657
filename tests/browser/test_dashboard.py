"""The dashboard in a real browser: what each tile shows is what its source says."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from browser.conftest import TOKEN, Fleet
from browser.heart import MODEL
from browser.line import HOUR_MS, Line
from quantum_common.contracts import (
    ALLOCATIONS,
    DECISIONS,
    EXECUTIONS,
    PREDICTIONS,
    AccountPosition,
    StreamSpec,
    decode,
)
from quantum_common.domain import AGENTS, Action, OrderSide
from quantum_common.service.clock import wall_ms
from quantum_common.testing import eventually

FIRST_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
SYMBOLS = ("BTCUSDT", "ETHUSDT")
ONE_REFRESH_MS = 10_000
"""5 s of the page, 3 s of the monitor's questions, and what the machine needs."""
HELD = (AccountPosition("ETHUSDT", OrderSide.SELL, Decimal(3), Decimal(2_000), Decimal("412.50"), Decimal("-3.25")),)
ACTIONS = (Action.BUY, Action.HOLD, Action.SELL)


async def events(line: Line, spec: StreamSpec) -> list[Any]:
    return [decode(entry.data) for entry in await line.bus.newest(line.keys.stream(spec, SYMBOLS[0]), 1_000)]


async def play(line: Line, bar_ms: int, action: Action, equity: str) -> None:
    """One bar of both symbols as the line would write it; meta-svc and governer-svc really decide on it."""
    line.at_ms = wall_ms()
    for symbol in SYMBOLS:
        await line.bar(symbol, bar_ms, 100.0 + bar_ms / HOUR_MS % 7, live_symbols=2)
    for symbol in SYMBOLS:
        await line.votes(symbol, bar_ms, action, AGENTS[:3])
        await line.abstain(AGENTS[3], symbol, bar_ms)
    await line.account("10031.29", equity, bar_ms, HELD)

    async def settled() -> bool:
        verdicts = [event for event in await events(line, ALLOCATIONS) if event.bar_ts_ms == bar_ms]
        return len(verdicts) >= len(SYMBOLS)

    await eventually(settled, within_s=15)


@pytest.fixture
async def newest_ms(line: Line) -> int:
    """The newest bar of a line on which something has happened; every test plays on where the last one stopped."""
    accounts = [event.payload for event in await events(line, EXECUTIONS) if event.kind == "AccountUpdated"]
    line._sequence = max((account.sequence for account in accounts), default=0)
    played = max((account.bar_ts_ms for account in accounts), default=FIRST_MS - HOUR_MS)
    for number in range(1, 4):
        bar_ms = played + number * HOUR_MS
        await play(line, bar_ms, ACTIONS[number - 1], f"99{number}0.5")
    await line.fill("BTCUSDT", bar_ms, "101.5")
    await line.close("BTCUSDT", bar_ms, "4.5")
    return bar_ms


def tile(page: Page, name: str) -> Locator:
    return page.locator(f"#{name}")


async def shows(page: Page, name: str, *words: str, within_ms: int = ONE_REFRESH_MS) -> None:
    for word in words:
        await expect(tile(page, name)).to_contain_text(word, timeout=within_ms)


def in_window(found: list[Any], newest_ms: int) -> list[Any]:
    return [event for event in found if newest_ms - 24 * HOUR_MS < event.bar_ts_ms <= newest_ms]


async def test_every_tile_equals_its_source_within_one_refresh(
    fleet: Fleet, line: Line, page: Page, newest_ms: int
) -> None:
    await page.goto(fleet.url("monitor-svc"))
    await play(line, newest_ms + HOUR_MS, Action.BUY, "9987.75")
    newest_ms += HOUR_MS
    status: Any = fleet.get("governer-svc", "/api/risk/status")
    await shows(page, "balance", f"${status['current_balance']:,.2f}", f"${status['peak_balance']:,.2f}", "$9,987.75")
    await shows(page, "drawdown", f"{100 * status['drawdown']:.2f} %", "15.0 %")
    trades = status["trade_history"]
    await shows(page, "win-rate", f"{sum(trade['pnl'] > 0 for trade in trades)} / {len(trades)}", "100.0 %")
    await shows(page, "win-rate", f"{status['daily_trades']} / {status['max_daily_trades']}")
    await shows(page, "trading", "ACTIVE", "Emergency stop: off")

    votes: Counter[tuple[str, str]] = Counter()
    for event in in_window(await events(line, PREDICTIONS), newest_ms):
        votes[event.payload.agent, getattr(event.payload, "action", "abstained")] += 1
    for agent in AGENTS[:3]:
        for action in ACTIONS:
            counted = page.locator(f"[data-agent={agent}-agent] .counts .{action}")
            await expect(counted).to_have_text(str(votes[agent, action]), timeout=ONE_REFRESH_MS)
    abstained = page.locator(f"[data-agent={AGENTS[3]}-agent] .counts .abstained")
    await expect(abstained).to_have_text(str(votes[AGENTS[3], "abstained"]))
    await expect(tile(page, "activity").locator(".lamp.green")).to_have_count(5, timeout=ONE_REFRESH_MS)

    decided = in_window(await events(line, DECISIONS), newest_ms)
    actions = Counter(event.payload.action for event in decided)
    shown_pct = []
    for action in ACTIONS:
        cells = page.locator(f"#variety [data-action={action}] .r")
        await expect(cells.nth(0)).to_have_text(str(actions[action]))
        shown_pct.append(float((await cells.nth(1).inner_text()).removesuffix(" %")))
        assert shown_pct[-1] == pytest.approx(100 * actions[action] / len(decided), abs=0.1)
    assert round(sum(shown_pct), 6) == 100.0
    allocated = in_window(await events(line, ALLOCATIONS), newest_ms)
    verdicts = [event for event in allocated if event.kind != "ApprovalExpired"]
    for code, count in Counter(event.payload.reason for event in verdicts).items():
        row = tile(page, "verdicts").locator("li", has_text=code.replace("_", " ").lower())
        await expect(row.locator(".r")).to_have_text(str(count))

    newest = min((event for event in decided if event.bar_ts_ms == newest_ms), key=lambda event: event.symbol)
    await shows(page, "explanation", newest.symbol, newest.payload.reason, f"{newest.payload.confidence:.3f}")
    await shows(page, "explanation", "abstained: not_enough_history", "the meta model was not asked")
    verdict = next(event for event in verdicts if event.payload.decision_id == newest.event_id)
    await shows(page, "explanation", verdict.payload.reason)
    await expect(tile(page, "decisions").locator("li")).to_have_count(min(12, len(await events(line, DECISIONS))))

    await shows(page, "equity", "$9,987.75")
    await shows(page, "positions", "ETHUSDT", "$412.50", "−3.25", "+4.50", "take profit")
    await expect(page.locator("#price .tabs a")).to_have_text(list(SYMBOLS))
    assert await page.locator("#price svg.fill:not(.key)").count() == len(
        [event for event in await events(line, EXECUTIONS) if event.kind == "OrderFilled"]
    )
    await shows(page, "models", str(MODEL["version"]), "unproven")
    features = page.locator("[data-stream='{p00}:features']")
    await expect(features.locator("tr", has_text="meta-svc").locator(".r")).to_have_text(["0", "0"], timeout=15_000)
    await expect(features.locator("tr", has_text="xgb-agent")).to_contain_text("missing")
    await expect(tile(page, "services").locator(".lamp.green")).to_have_count(len(fleet.processes) - 1)
    await expect(page.locator("[data-service=trainer-svc]")).to_contain_text("not running")


async def test_f24_no_tile_is_without_a_source_and_an_age(fleet: Fleet, page: Page, newest_ms: int) -> None:
    await page.goto(fleet.url("monitor-svc"))
    tiles = page.locator("section.tile")
    assert await tiles.count() == 15
    for number in range(15):
        foot = tiles.nth(number).locator("footer")
        assert (await foot.locator(".source").inner_text()).strip()
        assert (await foot.locator(".age").inner_text()).strip()
    age = page.locator("#streams footer .age")
    before = await age.inner_text()
    await expect(age).not_to_have_text(before, timeout=3_000)  # it counts up between the refreshes


@contextmanager
def held(fleet: Fleet, service: str) -> Iterator[None]:
    """The process hangs meanwhile, as one that is stuck does."""
    fleet.processes[service].send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        fleet.processes[service].send_signal(signal.SIGCONT)


async def test_a_stopped_agent_is_red_within_30_s_and_green_again_when_it_goes_on(
    fleet: Fleet, page: Page, newest_ms: int
) -> None:
    await page.goto(fleet.url("monitor-svc"))
    row = page.locator("[data-agent=lgbm-agent]")
    await expect(row.locator(".lamp")).to_have_class("lamp green", timeout=ONE_REFRESH_MS)
    with held(fleet, "lgbm-agent"):
        await expect(row.locator(".lamp")).to_have_class("lamp red", timeout=30_000)
        await expect(row).to_contain_text("no heartbeat for")
        await expect(page.locator("[data-agent=xgb-agent] .lamp")).to_have_class("lamp green")
    await expect(row.locator(".lamp")).to_have_class("lamp green", timeout=ONE_REFRESH_MS)


async def test_a_page_whose_monitor_does_not_answer_turns_grey_and_says_so(
    fleet: Fleet, page: Page, newest_ms: int
) -> None:
    await page.goto(fleet.url("monitor-svc"))
    banner = page.locator(".banner")
    await expect(banner).to_be_hidden()
    with held(fleet, "monitor-svc"):
        await expect(banner).to_be_visible(timeout=15_000)
        assert await page.evaluate("getComputedStyle(document.querySelector('main')).filter") == "grayscale(1)"
    await expect(banner).to_be_hidden(timeout=ONE_REFRESH_MS)


async def send(page: Page, reason: str, token: str) -> None:
    await page.get_by_label("Reason").fill(reason)
    await page.get_by_label("API token").fill(token)
    await page.locator("form button").click()


async def test_the_emergency_stop_is_refused_without_the_token_and_works_with_it(
    fleet: Fleet, page: Page, newest_ms: int
) -> None:
    await page.goto(fleet.url("monitor-svc"))
    await page.locator("#stop-button").click()
    await send(page, "try", "not the token")
    await expect(page.get_by_role("alert")).to_have_text("governer-svc refused the token: nothing was changed")
    assert fleet.get("governer-svc", "/api/risk/status")["emergency_stop"] is False
    await send(page, "outage of the venue", TOKEN)
    await expect(page.get_by_role("status")).to_have_text("The emergency stop is on.")
    assert fleet.get("governer-svc", "/api/risk/status")["emergency_stop"] is True
    await page.locator("#back").click()
    await shows(page, "trading", "REDUCING", "Emergency stop: ON", "outage of the venue")
    await page.locator("#stop-button").click()
    await send(page, "over", TOKEN)
    await expect(page.get_by_role("status")).to_have_text("The emergency stop is off.")
    assert fleet.get("governer-svc", "/api/risk/status")["emergency_stop"] is False


async def test_a_choice_by_keyboard_survives_the_refresh(fleet: Fleet, page: Page, newest_ms: int) -> None:
    await page.goto(fleet.url("monitor-svc"))
    await page.locator("#symbol-ETHUSDT").focus()
    await page.keyboard.press("Enter")
    chosen = page.locator("#price .tabs [aria-current]")
    await expect(chosen).to_have_text("ETHUSDT")
    older = page.locator("#decisions li a").nth(2)
    chosen_id = await older.get_attribute("id") or ""
    await older.click()
    await expect(page.locator("#decisions li a[aria-current]")).to_have_id(chosen_id)
    await page.evaluate("refresh()")  # what the script does every 5 s
    await expect(page.locator("#decisions li a[aria-current]")).to_have_id(chosen_id)
    assert "decision=" in page.url
    await page.go_back()
    await expect(chosen).to_have_text("ETHUSDT")


TOO_WIDE = """
[...document.querySelectorAll("section.tile, section.tile table, section.tile li, header.top > *")]
  .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > innerWidth)
  .map(e => e.outerHTML.slice(0, 200))
"""


async def test_nothing_is_wider_than_the_screen(fleet: Fleet, page: Page, newest_ms: int) -> None:
    for path, width in product(("/", "/emergency-stop"), (1600, 820, 390)):
        await page.set_viewport_size({"width": width, "height": 900})
        await page.goto(fleet.url("monitor-svc") + path)
        assert await page.evaluate(TOO_WIDE) == [], (path, width)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
