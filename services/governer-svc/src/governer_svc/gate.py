"""When the decisions of a bar are complete: pure, arrivals in, bars to settle out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from quantum_common.bus import Received


class Deadlines(NamedTuple):
    """How long the first decision of a bar waits at most, in wall-clock milliseconds."""

    decisions_ms: int = 250
    """For the decisions of the other symbols."""
    account_ms: int = 5_000
    """For the account update of the bar."""


@dataclass
class _Bar:
    live_symbols: int | None = None
    first_decision_ms: int | None = None
    decisions: dict[str, Received] = field(default_factory=dict)
    """By symbol."""
    entries: dict[tuple[str, str], Received] = field(default_factory=dict)
    """Everything held for this bar, by stream and entry id: a redelivered entry is the same entry."""


class SettledBar(NamedTuple):
    bar_ts_ms: int
    timeframe: str
    decisions: list[Received]
    held: list[Received]
    """All that is acknowledged with the bar's verdicts, features included."""


class BarGate:
    """Holds decisions (and the features that say how many to wait for) until their bar can be settled.

    Nothing held here is acknowledged before the verdicts are committed, so a restart delivers it again.
    """

    def __init__(self, deadlines: Deadlines | None) -> None:
        """`deadlines` None waits for everything, as a replay does."""
        self._deadlines = deadlines
        self._bars: dict[int, _Bar] = {}

    @property
    def waiting(self) -> int:
        """Decisions held."""
        return sum(len(bar.decisions) for bar in self._bars.values())

    def add_features(self, received: Received) -> None:
        bar = self._bar(received)
        # A symbol that came or went within the bar leaves events that disagree: wait for all that were ever told.
        bar.live_symbols = max(received.event.payload.live_symbols, bar.live_symbols or 0)

    def add_decision(self, received: Received, now_ms: int) -> None:
        bar = self._bar(received)
        bar.decisions[received.event.symbol] = received
        bar.first_decision_ms = now_ms if bar.first_decision_ms is None else bar.first_decision_ms

    def _bar(self, received: Received) -> _Bar:
        bar = self._bars.setdefault(received.event.bar_ts_ms, _Bar())
        bar.entries[received.entry.stream, received.entry.entry_id] = received
        return bar

    def ready(self, account_bar_ts_ms: int, newest_settled_ms: int, now_ms: int) -> SettledBar | None:
        """The oldest bar with decisions, once it need not wait any longer; younger bars wait behind it.

        A bar that has verdicts already waits for no further decision: its features are acknowledged and gone.
        """
        with_decisions = [ts for ts, bar in self._bars.items() if bar.decisions]
        if not with_decisions:
            return None
        bar_ts_ms = min(with_decisions)
        bar = self._bars[bar_ts_ms]
        waited_ms = now_ms - (bar.first_decision_ms if bar.first_decision_ms is not None else now_ms)
        all_in = bar.live_symbols is not None and len(bar.decisions) >= bar.live_symbols
        complete = all_in or bar_ts_ms <= newest_settled_ms
        known = account_bar_ts_ms >= bar_ts_ms
        if self._deadlines is not None:
            complete = complete or waited_ms >= self._deadlines.decisions_ms
            known = known or waited_ms >= self._deadlines.account_ms
        if not (complete and known):
            return None
        decisions = list(bar.decisions.values())
        timeframe = decisions[0].event.timeframe
        return SettledBar(bar_ts_ms, timeframe, decisions, list(bar.entries.values()))

    def settled(self, bar_ts_ms: int) -> None:
        """Forget a bar: its verdicts are committed, or it could not be settled."""
        self._bars.pop(bar_ts_ms, None)

    def surplus(self, newest_settled_ms: int) -> list[Received]:
        """Features of bars that have their verdicts, or were passed over: taken out, to be acknowledged."""
        past = [ts for ts, bar in self._bars.items() if ts <= newest_settled_ms and not bar.decisions]
        return [received for ts in past for received in self._bars.pop(ts).entries.values()]
