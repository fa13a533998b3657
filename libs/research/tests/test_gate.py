"""The gate: which new models may serve. Rules without models."""

from collections.abc import Mapping
from typing import Any

import msgspec

from quantum_common.domain import AGENTS
from quantum_common.models import Golden, Manifest
from quantum_research.gate import Decision, Found, Judged, Rivals, decide

ALL = (*AGENTS, "meta")


def manifest(agent: str, version: str, quality: Any = "proven") -> Manifest:
    fields: dict[str, Any] = dict.fromkeys(("feature_hash", "view", "timeframe"), "x")
    return Manifest(
        agent=agent, version=version, kind="row", feature_names=(), class_order=(), horizon_bars=5,
        label_threshold=0.01, window_bars=1, symbols=(), library_versions={}, data_from_ms=0, labels_to_ms=0,
        metrics={}, quality=quality, parameters=1, golden=Golden([], []), **fields,
    )  # fmt: skip


def rivals(agent: str, **changes: Any) -> Rivals:
    pair = Rivals(manifest(agent, "v2"), manifest(agent, "v1"), withdrawn=False)
    return msgspec.structs.replace(pair, **changes)


def decided(
    *pairs: Rivals, winners: tuple[str, ...] = (), undecided: bool = False, enough: bool = True, **options: Any
) -> dict[str, Decision]:
    def compare(agent: str, decisions: Mapping[str, Decision]) -> Found:
        if undecided:
            return Found("undecided", "too_few_rows")
        return Found("challenger" if agent in winners else "champion", "judged")

    rows = decide(pairs, compare=compare, enough_rows=enough, shadow=options.pop("shadow", False), **options)
    return {row.agent: row.decision for row in rows}


def everyone(**changes: Any) -> list[Rivals]:
    return [rivals(agent, **changes) for agent in ALL]


def test_each_base_model_wins_or_loses_on_its_own() -> None:
    found = decided(*everyone(), winners=("xgb", "nhits"))
    assert {agent for agent, decision in found.items() if decision is Decision.RELEASE} == {"xgb", "nhits"}
    assert found["meta"] is Decision.KEEP


def test_meta_is_judged_after_the_base_models_whose_votes_it_sees() -> None:
    seen: list[Mapping[str, Decision]] = []

    def compare(agent: str, decisions: Mapping[str, Decision]) -> Found:
        if agent == "meta":
            seen.append(dict(decisions))
        return Found("challenger", "judged")

    decide([rivals("meta"), *(rivals(agent) for agent in AGENTS)], compare=compare, enough_rows=True, shadow=False)
    assert seen == [dict.fromkeys(AGENTS, Decision.RELEASE)]


def test_with_a_shadow_period_base_winners_go_into_the_shadow_and_meta_waits() -> None:
    found = decided(*everyone(), winners=ALL, shadow=True)
    assert {found[agent] for agent in AGENTS} == {Decision.SHADOW}
    assert found["meta"] is Decision.KEEP
    assert decided(*everyone(), winners=("meta",), shadow=True)["meta"] is Decision.RELEASE


def test_a_model_without_a_champion_is_released_whatever_its_quality() -> None:
    first = [rivals(agent, champion=None, new=manifest(agent, "v1", "unproven")) for agent in ALL]
    assert set(decided(*first, enough=False).values()) == {Decision.RELEASE}


def test_without_enough_rows_and_without_a_verdict_nothing_is_decided() -> None:
    assert set(decided(*everyone(), winners=ALL, enough=False).values()) == {Decision.UNDECIDED}
    assert set(decided(*everyone(), undecided=True).values()) == {Decision.UNDECIDED}


def test_an_unproven_model_does_not_replace_a_proven_one() -> None:
    unproven = rivals("xgb", new=manifest("xgb", "v2", "unproven"))
    assert decided(unproven, winners=ALL)["xgb"] is Decision.KEEP
    both = rivals("xgb", new=manifest("xgb", "v2", "unproven"), champion=manifest("xgb", "v1", "unproven"))
    assert decided(both, winners=ALL)["xgb"] is Decision.RELEASE


def test_what_serves_already_or_was_taken_back_or_was_not_asked_for_is_not_released() -> None:
    same = rivals("xgb", new=manifest("xgb", "v1"))
    assert decided(same, winners=ALL)["xgb"] is Decision.KEEP
    assert decided(rivals("xgb", withdrawn=True), winners=ALL)["xgb"] is Decision.KEEP
    metas = [msgspec.structs.replace(manifest(name, "v2"), kind="meta") for name in ("meta", "meta-v1")]
    pairs = [*everyone()[:4], *(rivals(new.agent, new=new) for new in metas)]
    found = decided(*pairs, winners=(*ALL, "meta-v1"), only=("meta",))
    assert found == {**dict.fromkeys(AGENTS, Decision.KEEP), "meta": Decision.RELEASE, "meta-v1": Decision.RELEASE}


def test_every_decision_has_its_reason() -> None:
    rows = decide(everyone(withdrawn=True), compare=lambda *_: Found("champion", ""), enough_rows=True, shadow=False)
    assert rows[0] == Judged(AGENTS[0], "v2", Decision.KEEP, "was taken back before")
