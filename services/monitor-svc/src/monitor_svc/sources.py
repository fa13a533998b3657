"""Source and age of a tile (F24: no figure without them), and when it counts as stale."""

from __future__ import annotations

from typing import Any

from monitor_svc.facts import Answer, Facts
from monitor_svc.view_of_fleet import Source
from quantum_common.contracts.streams import StreamSpec
from quantum_common.domain.timeframe import timeframe_ms

STALE_AFTER_S = 15.0
HEARTBEAT_LIMIT_S = 15.0
"""Without a heartbeat for so long an agent is red, and a service down."""


def seconds_since(at_ms: int | None, now_ms: int) -> float | None:
    return None if at_ms is None else max(0.0, (now_ms - at_ms) / 1000)


def stream_source(facts: Facts, spec: StreamSpec, now_ms: int, *, live: bool = False, also: str = "") -> Source:
    """Age of the newest event. Stale while the streams cannot be read; with `live` also when a bar is overdue.

    `also` names what else the tile shows; its age is that of `spec`, which all else follows.
    """
    at_ms = facts.market.newest_at_ms.get(spec.name)
    age_s, name = seconds_since(at_ms, now_ms), f"{spec.name} stream" + (f", {also}" if also else "")
    if facts.read.problem:
        return Source(name, age_s, _too_old(facts.read.at_ms, now_ms), facts.read.problem)
    if _too_old(facts.read.at_ms, now_ms):
        return Source(name, age_s, True, "the streams were not read")
    if at_ms is None:
        return Source(name, None, True, f"nothing on the {spec.name} stream yet")
    limit_s = 2 * timeframe_ms(facts.market.timeframe) / 1000
    if live and age_s is not None and age_s > limit_s:
        return Source(name, age_s, True, f"nothing new for more than two bars of {facts.market.timeframe}")
    return Source(name, age_s, False)


def answer_source(name: str, answer: Answer[Any], now_ms: int) -> Source:
    """Age of the newest good answer. Stale after 15 s without one."""
    stale = _too_old(answer.at_ms, now_ms)
    problem = answer.problem or ("not asked again" if stale else "")
    return Source(name, seconds_since(answer.at_ms, now_ms), stale, problem)


def _too_old(at_ms: int | None, now_ms: int) -> bool:
    age_s = seconds_since(at_ms, now_ms)
    return age_s is None or age_s > STALE_AFTER_S
