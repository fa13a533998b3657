"""Joins the four predictions and the features event of one (symbol, bar), and says when the bar is due.

Held entries stay pending on the bus until their bar is committed, so what is kept here may be lost at any moment: the
bus hands it out again. That is why the same entry may be offered twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from quantum_common.bus import Received
from quantum_common.contracts import FeaturesComputed, PredictionAbstained, PredictionMade
from quantum_common.contracts.decisions import Trigger
from quantum_common.domain import AGENTS

ORPHAN_MS = 30_000
"""Live, a bar whose features event never comes is decided without it after this long. Longer than the bus needs to hand
over what a dead consumer had read, so that an event which exists is never missed."""


class Placed(StrEnum):
    """What became of an offered entry. Everything but HELD is acknowledged at once, without an effect."""

    HELD = "held"
    LATE = "late"
    SHADOW = "shadow"
    UNKNOWN_AGENT = "unknown_agent"


class BarKey(NamedTuple):
    symbol: str
    bar_ts_ms: int


@dataclass(slots=True)
class HeldBar:
    """Entries of one symbol and bar that wait for the decision. `held_since_ms` is this process's clock."""

    key: BarKey
    timeframe: str
    held_since_ms: int
    features: Received | None = None
    predictions: dict[str, Received] = field(default_factory=dict)
    """Vote or abstention by agent."""
    repeats: list[Received] = field(default_factory=list)
    """Further entries of an agent that has voted; acknowledged with the bar."""

    @property
    def complete(self) -> bool:
        return self.features is not None and len(self.predictions) == len(AGENTS)

    @property
    def entries(self) -> list[Received]:
        features = [] if self.features is None else [self.features]
        return [*features, *self.predictions.values(), *self.repeats]


class Due(NamedTuple):
    bar: HeldBar
    trigger: Trigger


class Join:
    """All bars of this instance that are not decided.

    `deadline_ms` counts from the features event's production; None (a replay) waits for everything: what a bar is
    decided on must not depend on how fast this machine is.
    """

    def __init__(self, deadline_ms: int | None) -> None:
        self._deadline_ms = deadline_ms
        self._bars: dict[BarKey, HeldBar] = {}
        self._decided: dict[str, int] = {}
        """Newest decided bar per symbol, as far as this process knows; the watermark on the bus has the last word."""

    def __len__(self) -> int:
        return len(self._bars)

    def offer(self, received: Received, now_ms: int) -> Placed:
        """Hold an entry until its bar is decided, or say why not."""
        event = received.event
        payload = event.payload
        if isinstance(payload, PredictionMade) and payload.role == "shadow":
            return Placed.SHADOW
        if isinstance(payload, PredictionMade | PredictionAbstained) and payload.agent not in AGENTS:
            return Placed.UNKNOWN_AGENT
        if event.bar_ts_ms <= self._decided.get(event.symbol, -1):
            return Placed.LATE
        key = BarKey(event.symbol, event.bar_ts_ms)
        bar = self._bars.setdefault(key, HeldBar(key, event.timeframe, now_ms))
        _place(bar, received)
        return Placed.HELD

    def due(self, now_ms: int, *, quiet: bool) -> list[Due]:
        """Bars to decide now, oldest first per symbol; symbols in alphabetical order.

        `quiet`: the last read found both streams drained. Unless that is so, votes may lie unread on the bus, and
        neither the deadline nor a newer bar may cut them off (a restart finds bars whose deadline is long past).
        """
        newest = self._newest_features()
        found: list[Due] = []
        for key in sorted(self._bars, reverse=True):
            trigger = self._trigger(self._bars[key], newest, now_ms, quiet)
            # Decisions of a symbol are in the order of its bars, so a newer bar that is due takes the older with it.
            if trigger is None and found and found[-1].bar.key.symbol == key.symbol:
                trigger = "next_bar"
            if trigger is not None:
                found.append(Due(self._bars[key], trigger))
        return found[::-1]

    def settle(self, key: BarKey, *, decided: bool) -> None:
        """Forget a bar. `decided` False: another instance has its entries now."""
        self._bars.pop(key, None)
        if decided:
            self.mark_decided(key.symbol, key.bar_ts_ms)

    def mark_decided(self, symbol: str, bar_ts_ms: int) -> None:
        """Entries of this bar and older ones are late from now on."""
        self._decided[symbol] = max(bar_ts_ms, self._decided.get(symbol, -1))

    def clear(self) -> None:
        """Forget everything that is held: the bus hands it out again."""
        self._bars.clear()

    def _newest_features(self) -> dict[str, int]:
        newest: dict[str, int] = {}
        for key, bar in self._bars.items():
            if bar.features is not None:
                newest[key.symbol] = max(key.bar_ts_ms, newest.get(key.symbol, -1))
        return newest

    def _trigger(self, bar: HeldBar, newest: Mapping[str, int], now_ms: int, quiet: bool) -> Trigger | None:
        if bar.complete:
            return "complete"
        held_ms = now_ms - bar.held_since_ms
        superseded = newest.get(bar.key.symbol, -1) > bar.key.bar_ts_ms
        if self._deadline_ms is None:
            return "next_bar" if quiet and superseded else None
        if quiet or held_ms >= self._deadline_ms:
            if superseded:
                return "next_bar"
            if bar.features is not None:
                age_ms = now_ms - bar.features.event.produced_at_ms
                return "deadline" if age_ms >= self._deadline_ms else None
        return "deadline" if bar.features is None and held_ms >= ORPHAN_MS and quiet else None


def _place(bar: HeldBar, received: Received) -> None:
    payload = received.event.payload
    if isinstance(payload, FeaturesComputed):
        bar.features = _first(bar, bar.features, received)
    else:
        bar.predictions[payload.agent] = _first(bar, bar.predictions.get(payload.agent), received)


def _first(bar: HeldBar, present: Received | None, received: Received) -> Received:
    """The older entry counts, in whatever order the two were handed out; the younger is kept as a repeat."""
    if present is None or present.entry.entry_id == received.entry.entry_id:
        return received
    older, younger = sorted((present, received), key=lambda each: _order(each.entry.entry_id))
    known = {repeat.entry[:2] for repeat in bar.repeats}
    if younger.entry[:2] not in known:
        bar.repeats.append(younger)
    return older


def _order(entry_id: str) -> tuple[int, int]:
    high, _, low = entry_id.partition("-")
    return int(high), int(low)
