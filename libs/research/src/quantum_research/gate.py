"""The gate of a deployment: which of the new models may serve, judged against those that serve, on fresh rows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Literal

import msgspec

from quantum_common.domain import AGENTS
from quantum_common.models import Manifest
from quantum_research.release import Verdict

FEE_BPS = 5.0
"""Taker fee of one side, as the paper venue takes it: what signals are traded at when two models are compared."""


class Decision(StrEnum):
    RELEASE = "release"
    SHADOW = "shadow"
    KEEP = "keep"
    """The champion goes on."""
    UNDECIDED = "undecided"
    """Too few rows that neither model has seen."""


class Judged(msgspec.Struct, frozen=True):
    """What becomes of one new model, and why."""

    agent: str
    version: str
    decision: Decision
    reason: str


class Found(msgspec.Struct, frozen=True):
    """Champion against challenger on the same rows."""

    winner: Literal["challenger", "champion", "undecided"]
    reason: str


class Rivals(msgspec.Struct, frozen=True):
    """A new model and the one that serves."""

    new: Manifest
    champion: Manifest | None
    withdrawn: bool
    """The new version served before and was taken back."""


Compare = Callable[[str, Mapping[str, Decision]], Found]
"""(agent, what was decided on the base agents) → how this agent's challenger did."""


def decide(
    rivals: Sequence[Rivals], *, compare: Compare, enough_rows: bool, shadow: bool, only: Sequence[str] = ()
) -> list[Judged]:
    """A decision per model, base agents first, since meta is judged on the votes of whoever serves after them.

    A model without a champion is released: its files were checked, and its manifest says what it is worth. Meta never
    goes into the shadow, because it has no events of its own there; while a base agent does, it waits, and the
    retraining that follows the base agent's promotion brings it.
    """
    order = {name: number for number, name in enumerate(AGENTS)}
    decided: list[Judged] = []
    for pair in sorted(rivals, key=lambda pair: order.get(pair.new.agent, len(order))):
        agent, is_base = pair.new.agent, pair.new.agent in order
        decisions = {row.agent: row.decision for row in decided}
        if (early := _without_comparing(pair, enough_rows, only)) is not None:
            decision, reason = early
        elif not is_base and Decision.SHADOW in decisions.values():
            decision, reason = Decision.KEEP, "waits for the base agents in the shadow"
        else:
            found = compare(agent, decisions)
            won = Decision.SHADOW if shadow and is_base else Decision.RELEASE
            lost = Decision.UNDECIDED if found.winner == "undecided" else Decision.KEEP
            decision, reason = won if found.winner == "challenger" else lost, found.reason
        decided.append(Judged(agent, pair.new.version, decision, reason))
    return decided


def _without_comparing(pair: Rivals, enough_rows: bool, only: Sequence[str]) -> tuple[Decision, str] | None:
    if only and pair.new.agent not in only and pair.new.kind not in only:
        return Decision.KEEP, "not asked for"
    if pair.champion is None:
        return Decision.RELEASE, f"no version serves yet; {pair.new.quality}"
    if pair.champion.version == pair.new.version:
        return Decision.KEEP, "serves already"
    if pair.withdrawn:
        return Decision.KEEP, "was taken back before"
    if pair.new.quality != "proven" and pair.champion.quality == "proven":
        return Decision.KEEP, "misses the quality gates, which the champion passed"
    if not enough_rows:
        return Decision.UNDECIDED, "too few bars since the champion's training to compare them on"
    return None


def in_words(verdict: Verdict) -> str:
    """The evidence in one line."""
    return (
        f"{verdict.reason}: log-loss {verdict.challenger_log_loss:.4f} against {verdict.champion_log_loss:.4f} (gain "
        f"[{verdict.gain_low:.4f}, {verdict.gain_high:.4f}]), net {verdict.challenger_net:.4f} against "
        f"{verdict.champion_net:.4f}, on {verdict.rows} bars of {verdict.days} days"
    )
