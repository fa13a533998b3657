"""One symbol as the running service holds it: its state as read from the bus, and what is not saved yet."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from feature_svc import metrics
from feature_svc.core import Rules, SymbolState, Taken, is_publishable, skip, take, window_member
from feature_svc.source import Row
from quantum_common.features import KEPT_VECTORS, bars_seen
from quantum_common.features.hygiene import Bar, Refused, Sifted, is_stale, sift

REMEMBERED_REFUSALS = 100


@dataclass
class Feed:
    symbol: str
    loaded: bool = False
    """Whether what follows is what stands on the bus, plus what is unsaved."""
    state: SymbolState = field(default_factory=SymbolState)
    version: int = 0
    published_ts: int = -1
    """Newest bar published, by whichever instance: the watermark."""
    first_ts: int = 0
    """Bars before this one are not published, however many came before them."""
    stale: bool = False
    dirty: bool = False
    vectors: list[tuple[int, bytes]] = field(default_factory=list)
    """Unsaved members of the window."""
    letters: list[Refused] = field(default_factory=list)
    """Unsaved dead letters."""
    refused_before: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=REMEMBERED_REFUSALS))

    def load(self, state: SymbolState | None, version: int, published_ts: int) -> None:
        self.loaded = True
        self.state = state or SymbolState()
        self.version = version
        self.published_ts = published_ts
        self.forget_unsaved()

    def forget(self) -> None:
        """What is in memory can no longer be trusted: read it again before the next bar."""
        self.loaded = False
        self.forget_unsaved()

    def forget_unsaved(self) -> None:
        self.dirty = False
        self.vectors.clear()
        self.letters.clear()

    def saved(self) -> None:
        self.version += 1
        self.forget_unsaved()

    @property
    def is_new(self) -> bool:
        return self.state.cursor_ts is None

    def lacks(self, newest_closed: int) -> bool:
        """Whether the bar opening at `newest_closed` has not been dealt with yet."""
        return self.state.cursor_ts is None or self.state.cursor_ts < newest_closed

    def missing_history(self, rules: Rules) -> int:
        """Bars that are still to come before one can be published."""
        return max(0, rules.bars_before_first - bars_seen(self.state.recursion))

    def sift(self, rows: list[Row], now_ms: int, rules: Rules) -> Sifted:
        """Hygiene of a fetch, and with it whether the symbol is stale."""
        sifted = sift(rows, bar_ms=rules.bar_ms, last_ts=self.state.cursor_ts, now_ms=now_ms)
        self.note_age(sifted.bars[-1].ts if sifted.bars else self.state.last_ts, now_ms, rules)
        metrics.DUPLICATE_BARS.inc(sifted.duplicates)
        return sifted

    def note_age(self, newest_ts: int | None, now_ms: int, rules: Rules) -> None:
        self.stale = is_stale(newest_ts, rules.bar_ms, now_ms)

    def age_s(self, now_ms: int, rules: Rules) -> float:
        """Since the newest used bar closed; NaN without one."""
        return math.nan if self.state.last_ts is None else (now_ms - self.state.last_ts - rules.bar_ms) / 1000

    def is_stale(self, now_ms: int, rules: Rules) -> bool:
        """As of now, not of the last look."""
        return is_stale(self.state.last_ts, rules.bar_ms, now_ms)

    def refuse(self, refused: Refused, rules: Rules) -> None:
        """Set a bar aside; one that the venue would send again and again only once."""
        ts = refused.bar.ts
        moves_on = ts % rules.bar_ms == 0 and ts > (self.state.cursor_ts or 0)
        if moves_on:
            self.state = skip(self.state, ts)
        elif (ts, refused.reason) in self.refused_before:
            return
        self.refused_before.append((ts, refused.reason))
        self.letters.append(refused)
        self.dirty = True

    def take(self, bar: Bar, rules: Rules) -> Taken:
        taken = take(self.state, bar, rules)
        self.state = taken.state
        self.dirty = True
        if (member := window_member(taken, rules)) is not None:
            self.vectors.append((bar.ts, member))
            del self.vectors[:-KEPT_VECTORS]
        return taken

    def publishes(self, taken: Taken, rules: Rules) -> bool:
        return not self.stale and taken.bar.ts >= self.first_ts and is_publishable(taken, rules)
