"""The verdict names what is planted: lost, doubled, pending, unexplained, different."""

from collections import Counter
from typing import Any

import pytest

from chaos.evidence import Evidence, Letter, Slot, Trade
from chaos.report import judge, last_line
from quantum_common.domain import AGENTS

BARS = [(symbol, ts) for symbol in ("BTCUSDT", "ETHUSDT") for ts in (3_600_000, 7_200_000)]
SUMMARY = {"decisions_digest": "d", "ledger_digest": "l", "final_balance": "1"}
TRADE = Trade("BTCUSDT", "1", "2.0", "3.0")
LETTER = Letter("{p00}:features", "1-1", "meta-svc")


def slots() -> list[Slot]:
    return [
        slot
        for symbol, ts in BARS
        for slot in (
            *(Slot(what, symbol, ts) for what in ("features", "decision", "verdict")),
            *(Slot("prediction", symbol, ts, agent) for agent in AGENTS),
        )
    ]


def evidence() -> Evidence:
    """Of a run without a flaw."""
    return Evidence(
        archived={slot: {"id"} for slot in slots()},
        on_bus=Counter(slots()),
        letters=Counter([LETTER]),
        expected_letters=Counter([LETTER]),
        venue_trades=Counter([TRADE]),
        ledger_trades=Counter([TRADE]),
    )


def judged(found: Evidence, **changed: str) -> Any:
    return judge(found, BARS, {**SUMMARY, **changed}, SUMMARY)


def test_a_run_without_a_flaw_is_good() -> None:
    verdict = judged(evidence())
    assert verdict.good
    assert last_line(7, 4, 3, verdict) == "chaos seed=7 inputs=4 kills=3 lost=0 doubled=0 pending=0 ledger=equal"


@pytest.mark.parametrize("slot", slots()[:7])
def test_an_event_missing_from_the_archive_or_the_bus_is_lost(slot: Slot) -> None:
    found = evidence()
    del found.archived[slot]
    assert len(judged(found).lost) == 1
    found = evidence()
    del found.on_bus[slot]
    assert len(judged(found).lost) == 1


def test_what_was_trimmed_from_the_bus_is_not_lost() -> None:
    found = evidence()
    found.on_bus.clear()
    found.trimmed = frozenset({"features", "predictions", "decisions", "allocations"})
    assert judged(found).good


@pytest.mark.parametrize("slot", slots()[:7])
def test_an_event_twice_on_the_bus_or_under_two_ids_is_doubled(slot: Slot) -> None:
    found = evidence()
    found.on_bus[slot] += 1
    assert len(judged(found).doubled) == 1
    found = evidence()
    found.archived[slot] = {"id", "other"}
    assert len(judged(found).doubled) == 1


def test_an_event_of_no_bar_is_counted_as_one_too_many() -> None:
    found = evidence()
    found.on_bus[Slot("decision", "BTCUSDT", 1)] += 1
    assert len(judged(found).doubled) == 1


def test_an_execution_event_that_stands_twice_is_doubled() -> None:
    found = evidence()
    found.repeated_ids["{paper}:executions abc"] = 2
    assert len(judged(found).doubled) == 1


def test_a_trade_of_the_venue_that_is_not_booked_is_lost() -> None:
    found = evidence()
    found.ledger_trades.clear()
    assert len(judged(found).lost) == 1


def test_a_trade_booked_twice_or_with_another_price_is_seen() -> None:
    found = evidence()
    found.ledger_trades[TRADE] += 1
    assert len(judged(found).doubled) == 1
    found = evidence()
    found.ledger_trades = Counter([TRADE._replace(price="3.1")])
    assert (len(judged(found).lost), len(judged(found).doubled)) == (1, 1)


def test_an_order_that_is_twice_at_the_venue_is_doubled() -> None:
    found = evidence()
    found.doubled_orders = ["qt1"]
    assert len(judged(found).doubled) == 1


def test_what_is_pending_is_counted() -> None:
    found = evidence()
    found.pending = {"{p00}:features meta-svc": 3}
    verdict = judged(found)
    assert not verdict.good
    assert last_line(1, 4, 0, verdict).endswith("pending=3 ledger=equal")


def test_dead_letters_must_be_exactly_those_of_the_poison() -> None:
    found = evidence()
    found.letters[LETTER._replace(entry_id="2-1")] += 1
    assert len(judged(found).dead) == 1
    found = evidence()
    found.letters.clear()
    assert len(judged(found).dead) == 1
    found = evidence()
    found.letters[LETTER] += 1
    assert len(judged(found).dead) == 1


def test_differing_digests_are_told() -> None:
    verdict = judged(evidence(), ledger_digest="other")
    assert not verdict.good
    assert last_line(1, 4, 0, verdict).endswith("ledger=DIFFERS")
    assert not judged(evidence(), decisions_digest="other").decisions_equal
    assert not judged(evidence(), final_balance="2").ledger_equal
