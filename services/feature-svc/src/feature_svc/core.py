"""One symbol, one bar: the pure step of feature-svc, and how its state is stored."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from quantum_common.contracts import Candle, FeaturesComputed
from quantum_common.features import (
    LONGEST_STEPPED_GAP_BARS,
    OUTPUT_LENGTH,
    SEQUENCE_BARS,
    BadState,
    bars_seen,
    feature_hash,
    new_state,
    pack_state,
    pack_vector,
    recursion,
    step,
    unpack_state,
)
from quantum_common.features.hygiene import Bar, missing_bars


@dataclass(frozen=True, slots=True)
class Rules:
    bar_ms: int
    warmup_bars: int

    @property
    def bars_before_first(self) -> int:
        """Bars needed before the first one that may be published: the warm-up, and the rest of its window."""
        return self.warmup_bars + SEQUENCE_BARS - 1

    @property
    def feature_hash(self) -> str:
        return feature_hash("raw", self.warmup_bars)


@dataclass(frozen=True, slots=True)
class SymbolState:
    """Everything that the next bar of a symbol depends on. Never changed: a step makes a new one."""

    recursion: list[float] = field(default_factory=new_state)
    last_ts: int | None = None
    """Open time of the newest bar taken in."""
    cursor_ts: int | None = None
    """Open time of the newest bar dealt with, refused ones included: the venue is asked for what follows."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one bar made of a symbol."""

    state: SymbolState
    bar: Bar
    gap_bars: int
    restarted: bool
    """The gap was too long to step over: the warm-up began again with this bar."""
    output: list[float]

    @property
    def zero_divisions(self) -> int:
        return int(self.output[recursion.ZERO_VOLUME])


def take(state: SymbolState, bar: Bar, rules: Rules) -> Taken:
    """Take in a bar that passed hygiene and is newer than the last one."""
    gap_bars = missing_bars(state.last_ts, bar.ts, rules.bar_ms)
    restarted = gap_bars > LONGEST_STEPPED_GAP_BARS
    numbers = new_state() if restarted else state.recursion.copy()
    output = [0.0] * OUTPUT_LENGTH
    step(numbers, bar.open, bar.high, bar.low, bar.close, bar.volume, output)
    return Taken(SymbolState(numbers, bar.ts, bar.ts), bar, gap_bars, restarted, output)


def skip(state: SymbolState, ts: int) -> SymbolState:
    """Deal with a bar that was refused: it moves nothing but the cursor."""
    return SymbolState(state.recursion, state.last_ts, ts)


def window_member(taken: Taken, rules: Rules) -> bytes | None:
    """The packed vector for the symbol's window; None while the recursions are warming up."""
    if bars_seen(taken.state.recursion) <= rules.warmup_bars:
        return None
    return pack_vector(taken.bar.ts, taken.bar.close, taken.output)


def is_publishable(taken: Taken, rules: Rules) -> bool:
    """Whether a whole window of warm vectors ends at this bar."""
    return bars_seen(taken.state.recursion) > rules.bars_before_first


def features_of(taken: Taken, rules: Rules, live_symbols: int) -> FeaturesComputed:
    _, open_, high, low, close, volume = taken.bar
    output = taken.output
    return FeaturesComputed(
        candle=Candle(open_, high, low, close, volume),
        values=tuple(output[recursion.VALUES : recursion.VOLATILITY]),
        volatility=output[recursion.VOLATILITY],
        trend_strength=output[recursion.TREND_STRENGTH],
        feature_hash=rules.feature_hash,
        gap_bars=taken.gap_bars,
        live_symbols=live_symbols,
    )


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    feature_hash: str
    bar_ms: int
    last_ts: int | None
    cursor_ts: int | None
    recursion: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)


def encode_state(state: SymbolState, rules: Rules) -> bytes:
    packed = pack_state(state.recursion)
    return _encoder.encode(_Stored(rules.feature_hash, rules.bar_ms, state.last_ts, state.cursor_ts, packed))


def decode_state(data: bytes | None, rules: Rules) -> SymbolState | None:
    """The stored state; None when there is none, or it belongs to other features, warm-up or timeframe."""
    if data is None:
        return None
    try:
        stored = _decoder.decode(data)
        if (stored.feature_hash, stored.bar_ms) != (rules.feature_hash, rules.bar_ms):
            return None
        return SymbolState(unpack_state(stored.recursion), stored.last_ts, stored.cursor_ts)
    except (msgspec.DecodeError, BadState):
        return None
