"""What is written: per symbol the state, its window and watermark, and the event; all symbols of a bar at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from feature_svc.core import Rules, Taken, encode_state, features_of
from feature_svc.feed import Feed
from feature_svc.settings import Settings
from quantum_common.bus import DeadLetter, Output, StateWrite, Unit, Watermark
from quantum_common.bus.port import Write
from quantum_common.contracts import FEATURES, dead, encode, envelope
from quantum_common.features import KEPT_VECTORS
from quantum_common.features.hygiene import Refused
from quantum_common.service.clock import wall_ms


class Publisher:
    """Builds units; commits nothing."""

    def __init__(self, settings: Settings, rules: Rules) -> None:
        self._settings, self._rules = settings, rules

    def watermark(self, symbol: str, ts: int) -> Watermark:
        return Watermark(self._stream(symbol), self._settings.service, symbol, ts)

    def state_key(self, symbol: str) -> str:
        return self._settings.keys.state(self._settings.service, symbol)

    def bar(self, published: Sequence[tuple[Feed, Taken]], live_symbols: int) -> list[tuple[list[Feed], Unit]]:
        """One unit per partition for all symbols of one bar."""
        by_tag: dict[str, list[tuple[Feed, Taken]]] = {}
        for feed, taken in published:
            by_tag.setdefault(self._settings.keys.tag(feed.symbol), []).append((feed, taken))
        return [([feed for feed, _ in group], self._bar_unit(group, live_symbols)) for group in by_tag.values()]

    def _bar_unit(self, group: Sequence[tuple[Feed, Taken]], live_symbols: int) -> Unit:
        return Unit(
            states=[self._state(feed) for feed, _ in group],
            watermarks=[self.watermark(feed.symbol, taken.bar.ts) for feed, taken in group],
            writes=[write for feed, _ in group for write in self._window(feed)],
            outputs=[
                output
                for feed, taken in group
                for output in (*self._letters(feed), self._event(feed, taken, live_symbols))
            ],
        )

    def save(self, feed: Feed) -> Unit:
        """State, window and dead letters of a symbol that has nothing to publish."""
        return Unit(states=[self._state(feed)], writes=list(self._window(feed)), outputs=list(self._letters(feed)))

    def early_window(self, feed: Feed) -> Unit:
        """Only the window, ahead of the state: its members are the same bytes however often they are computed."""
        return Unit(writes=list(self._window(feed)))

    def _state(self, feed: Feed) -> StateWrite:
        fields = {"bar_ts_ms": feed.state.last_ts} if feed.state.last_ts is not None else {}
        return StateWrite(self.state_key(feed.symbol), feed.version, encode_state(feed.state, self._rules), fields)

    def _window(self, feed: Feed) -> Iterable[Write]:
        key = self._settings.keys.window(feed.symbol, self._settings.timeframe)
        for ts, member in feed.vectors:
            yield ("ZADD", key, ts, member)
        if feed.vectors:
            yield ("ZREMRANGEBYRANK", key, 0, -KEPT_VECTORS - 1)

    def _event(self, feed: Feed, taken: Taken, live_symbols: int) -> Output:
        event = envelope(
            features_of(taken, self._rules, live_symbols),
            producer=self._settings.producer,
            produced_at_ms=wall_ms(),
            symbol=feed.symbol,
            timeframe=self._settings.timeframe,
            bar_ts_ms=taken.bar.ts,
        )
        return Output(self._stream(feed.symbol), encode(event))

    def _letters(self, feed: Feed) -> Iterable[Output]:
        for refused in feed.letters:
            yield Output(dead(self._stream(feed.symbol)), self._letter(feed.symbol, refused))

    def _letter(self, symbol: str, refused: Refused) -> bytes:
        """Non-finite numbers travel as null."""
        data = msgspec.json.encode({"symbol": symbol, "timeframe": self._settings.timeframe, **refused.bar._asdict()})
        letter = DeadLetter(self._stream(symbol), "", self._settings.service, 1, f"bad_bar: {refused.reason}", data)
        return msgspec.json.encode(letter)

    def _stream(self, symbol: str) -> str:
        return self._settings.keys.stream(FEATURES, symbol)
