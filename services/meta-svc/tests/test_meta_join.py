"""When a bar is due, and what is held, late or set aside."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_svc.core import Policy
from meta_svc.decide import decide
from meta_svc.events import decision_of, question_of
from meta_svc.join import ORPHAN_MS, BarKey, Join, Placed
from quantum_common.bus import Entry, Received
from quantum_common.contracts import Candle, FeaturesComputed, PredictionAbstained, PredictionMade, Producer, envelope
from quantum_common.domain import AGENTS, Action

BAR, HOUR, DEADLINE = 1_700_000_000_000, 3_600_000, 2_000
NOW = BAR + HOUR + 1_000
"""The features event is produced at this wall time."""
PROBABILITIES = {Action.SELL: (0.7, 0.2, 0.1), Action.HOLD: (0.2, 0.7, 0.1), Action.BUY: (0.1, 0.2, 0.7)}


def received(payload, service, *, symbol="BTCUSDT", bar=BAR, stream="predictions", number=1, key=""):
    event = envelope(
        payload,
        producer=Producer(service, "1", "0.1.0"),
        produced_at_ms=NOW,
        symbol=symbol,
        timeframe="1h",
        bar_ts_ms=bar,
        natural_key=key,
    )
    return Received(Entry(f"{{p00}}:{stream}", f"{number}-0", b"", "meta-svc", "1"), event)


def features(*, number=1, **where):
    payload = FeaturesComputed(Candle(1, 1, 1, 1, 1), (0.0,) * 18, 0.4, -0.2, "hash", 0, 1)
    return received(payload, "feature-svc", stream="features", number=number, **where)


def vote(agent, action=Action.BUY, *, role="champion", confidence=0.7, number=None, **where):
    payload = PredictionMade(agent, action, confidence, PROBABILITIES[action], "v1", role, 0.1)
    number = AGENTS.index(agent) + 1 if number is None and agent in AGENTS else number or 9
    return received(payload, f"{agent}-agent", number=number, key=f"v1:{role}", **where)


def abstention(agent, **where):
    return received(PredictionAbstained(agent, "not_enough_history", "3 of 64 bars"), f"{agent}-agent", **where)


def join_of(*entries, deadline_ms=DEADLINE):
    join = Join(deadline_ms)
    for entry in entries:
        assert join.offer(entry, NOW) is Placed.HELD
    return join


def triggers(join, now_ms=NOW, *, quiet=True):
    return [(due.bar.key.symbol, due.bar.key.bar_ts_ms, due.trigger) for due in join.due(now_ms, quiet=quiet)]


def test_a_bar_is_complete_when_its_features_and_all_four_agents_are_in():
    join = join_of(features(), *(vote(agent) for agent in AGENTS[:3]))
    assert triggers(join) == []
    join.offer(abstention(AGENTS[3], number=4), NOW)
    assert triggers(join, quiet=False) == [("BTCUSDT", BAR, "complete")]


def test_four_votes_wait_for_the_features_event():
    join = join_of(*(vote(agent) for agent in AGENTS))
    assert triggers(join, NOW + 10 * DEADLINE) == []
    join.offer(features(), NOW)
    assert triggers(join) == [("BTCUSDT", BAR, "complete")]


def test_the_deadline_counts_from_the_production_of_the_features_event():
    join = join_of(features(), vote("xgb"))
    assert triggers(join, NOW + DEADLINE - 1) == []
    assert triggers(join, NOW + DEADLINE) == [("BTCUSDT", BAR, "deadline")]


def test_a_deadline_long_past_waits_until_the_streams_are_drained():
    join = Join(DEADLINE)
    late = NOW + 3 * HOUR  # a restart finds the bar pending, its votes unread
    join.offer(features(), late)
    assert triggers(join, late, quiet=False) == []
    assert triggers(join, late, quiet=True) == [("BTCUSDT", BAR, "deadline")]


def test_traffic_that_never_ceases_cannot_put_off_a_deadline_for_ever():
    join = join_of(features())
    assert triggers(join, NOW + DEADLINE, quiet=False) == [("BTCUSDT", BAR, "deadline")]


def test_the_next_bar_of_the_symbol_ends_the_wait():
    join = join_of(features(), vote("xgb"), features(bar=BAR + HOUR, number=2))
    assert triggers(join) == [("BTCUSDT", BAR, "next_bar")]


def test_a_bar_of_another_symbol_does_not():
    join = join_of(features(), vote("xgb"), features(symbol="ETHUSDT", bar=BAR + HOUR, number=2))
    assert triggers(join) == []


def test_a_newer_bar_that_is_complete_takes_the_older_one_with_it_oldest_first():
    newer = BAR + HOUR
    join = join_of(features(), features(bar=newer, number=2), *(vote(agent, bar=newer) for agent in AGENTS))
    assert triggers(join, quiet=False) == [("BTCUSDT", BAR, "next_bar"), ("BTCUSDT", newer, "complete")]


def test_a_replay_has_no_deadline():
    join = join_of(features(), vote("xgb"), deadline_ms=None)
    assert triggers(join, NOW + 100 * HOUR) == []


def test_a_replay_waits_for_a_features_event_without_end():
    join = join_of(vote("xgb"), vote("lgbm"), deadline_ms=None)
    assert triggers(join, NOW + 100 * ORPHAN_MS) == []


def test_votes_whose_features_event_never_comes_do_not_hang_for_ever():
    join = join_of(vote("xgb"), vote("lgbm"))
    assert triggers(join, NOW + ORPHAN_MS - 1) == []
    assert triggers(join, NOW + ORPHAN_MS, quiet=False) == []
    (due,) = join.due(NOW + ORPHAN_MS, quiet=True)
    assert due.trigger == "deadline"
    regime = question_of(due.bar).regime
    assert (regime.volatility, regime.trend_strength) == (None, None)


def test_a_shadow_never_votes():
    join = join_of(features())
    assert join.offer(vote("xgb", role="shadow"), NOW) is Placed.SHADOW
    assert join.due(NOW + DEADLINE, quiet=True)[0].bar.predictions == {}


def test_an_agent_that_is_not_configured_is_set_aside():
    assert Join(DEADLINE).offer(vote("svm"), NOW) is Placed.UNKNOWN_AGENT


def test_votes_and_features_of_a_decided_bar_and_older_ones_are_late():
    join = join_of(features(), *(vote(agent) for agent in AGENTS))
    join.settle(BarKey("BTCUSDT", BAR), decided=True)
    assert len(join) == 0
    assert join.offer(vote("xgb"), NOW) is Placed.LATE
    assert join.offer(features(bar=BAR - HOUR), NOW) is Placed.LATE
    assert join.offer(vote("xgb", symbol="ETHUSDT"), NOW) is Placed.HELD
    assert join.offer(vote("xgb", bar=BAR + HOUR), NOW) is Placed.HELD


def test_a_bar_that_another_instance_took_may_be_offered_again():
    join = join_of(features())
    join.settle(BarKey("BTCUSDT", BAR), decided=False)
    assert join.offer(features(), NOW) is Placed.HELD


def test_the_same_entry_handed_out_twice_is_one_input():
    join = join_of(features(), vote("xgb"), vote("xgb"), features())
    (due,) = join.due(NOW + DEADLINE, quiet=True)
    assert len(due.bar.entries) == 2


@pytest.mark.parametrize("order", [(5, 6), (6, 5), (6, 5, 6, 5)])
def test_of_two_votes_of_one_agent_the_older_entry_counts_and_both_are_acknowledged(order):
    actions = {5: Action.SELL, 6: Action.BUY}
    join = join_of(features(number=6), *(vote("xgb", actions[number], number=number) for number in order))
    (due,) = join.due(NOW + DEADLINE, quiet=True)
    assert due.bar.predictions["xgb"].event.payload.action is Action.SELL
    assert sorted(each.entry.entry_id for each in due.bar.entries) == ["5-0", "6-0", "6-0"]


ENTRIES = [
    features(),
    vote("xgb", Action.BUY, confidence=0.61),
    vote("lgbm", Action.SELL, confidence=0.57),
    vote("nhits", Action.HOLD, confidence=0.83),
    abstention("patchtst", number=4),
]


@given(st.permutations(ENTRIES), st.lists(st.sampled_from(ENTRIES), max_size=3))
def test_a_decision_is_byte_equal_whatever_the_order_in_which_its_inputs_arrive(order, again):
    def payload(entries):
        (due,) = join_of(*entries).due(NOW, quiet=False)
        (outcome,) = decide([question_of(due.bar)], Policy(), None)
        return msgspec.json.encode(decision_of(due, outcome, None, "v2"))

    assert payload([*order, *again]) == payload(ENTRIES)


def decision(*entries):
    (due,) = join_of(*entries).due(NOW + DEADLINE, quiet=True)
    (outcome,) = decide([question_of(due.bar)], Policy(), None)
    return decision_of(due, outcome, None, "v2")


def test_a_decision_lists_every_agent_in_order_with_the_reason_of_those_that_did_not_vote():
    made = decision(features(), vote("nhits", Action.HOLD), abstention("xgb", number=4))
    assert [(each.agent, each.action, each.abstain_reason) for each in made.votes] == [
        ("xgb", None, "not_enough_history"),
        ("lgbm", None, "missing"),
        ("nhits", Action.HOLD, None),
        ("patchtst", None, "missing"),
    ]
    assert (made.trigger, made.volatility, made.trend_strength) == ("deadline", 0.4, -0.2)


def test_a_decision_names_its_input_events_sorted():
    entries = [features(), vote("xgb"), vote("lgbm")]
    assert decision(*entries).input_event_ids == tuple(sorted(entry.event.event_id for entry in entries))


def test_f09_a_vote_that_is_no_probability_is_an_abstention():
    made = decision(features(), vote("xgb", confidence=1.2), vote("lgbm", Action.SELL))
    assert (made.votes[0].action, made.votes[0].abstain_reason) == (None, "invalid_output")
    assert made.base_ensemble_action is Action.SELL


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from((0, 1, 2))), max_size=40), st.booleans())
def test_bars_of_a_symbol_are_due_in_order(offers, quiet):
    join = Join(DEADLINE)
    last = -1
    for which, step in offers:
        bar = BAR + step * HOUR
        entry = features(bar=bar) if which == 4 else vote(AGENTS[which], bar=bar)
        join.offer(entry, NOW)
        for due in join.due(NOW, quiet=quiet):
            assert due.bar.key.bar_ts_ms > last
            last = due.bar.key.bar_ts_ms
            join.settle(due.bar.key, decided=True)
