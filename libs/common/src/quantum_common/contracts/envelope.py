"""The envelope of every event, its content-derived id, and the one codec.

JSON by msgspec; decimals travel as strings; unknown fields are ignored; an unknown kind or a payload of another
shape raises `BadEvent`, and the bus kit sends the entry to the dead-letter stream.
"""

from __future__ import annotations

import hashlib
from typing import Any, Generic, TypeVar

import msgspec

from quantum_common import QuantumError
from quantum_common.contracts.allocations import ApprovalExpired, PositionApproved, PositionRejected
from quantum_common.contracts.control import Look
from quantum_common.contracts.decisions import DecisionMade
from quantum_common.contracts.executions import (
    AccountUpdated,
    FundingPaid,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    PositionDrifted,
    TradeClosed,
)
from quantum_common.contracts.features import FeaturesComputed
from quantum_common.contracts.predictions import PredictionAbstained, PredictionMade
from quantum_common.domain.timeframe import TIMEFRAME_MS

PAYLOADS: dict[str, type[msgspec.Struct]] = {
    cls.__name__: cls
    for cls in (
        FeaturesComputed,
        PredictionMade,
        PredictionAbstained,
        DecisionMade,
        PositionApproved,
        PositionRejected,
        ApprovalExpired,
        OrderSubmitted,
        OrderAccepted,
        OrderFilled,
        OrderCanceled,
        OrderRejected,
        TradeClosed,
        FundingPaid,
        AccountUpdated,
        PositionDrifted,
        Look,
    )
}
"""kind → payload type. The kind is the class name."""

SCHEMA_VERSION = 1
LATEST_TS_MS = 4_102_444_800_000
"""2100-01-01: a bar time beyond it, or before 1970, is no bar time."""

P = TypeVar("P", bound=msgspec.Struct)


class BadEvent(QuantumError):
    """An entry that is not one of our events; the message names the field."""


class Producer(msgspec.Struct, frozen=True):
    service: str
    instance: str
    version: str


class Envelope(msgspec.Struct, Generic[P], frozen=True):
    """An event. `symbol`, `timeframe` and `bar_ts_ms` (open time) are empty where they make no sense."""

    event_id: str
    kind: str
    schema_version: int
    symbol: str
    timeframe: str
    bar_ts_ms: int
    trace_id: str
    """Id of the bar this event descends from: the same for all events of one symbol and bar."""
    produced_at_ms: int
    """Wall clock."""
    producer: Producer
    payload: P


class _Raw(msgspec.Struct, frozen=True):
    event_id: str
    kind: str
    schema_version: int
    symbol: str
    timeframe: str
    bar_ts_ms: int
    trace_id: str
    produced_at_ms: int
    producer: Producer
    payload: msgspec.Raw


_encoder = msgspec.json.Encoder(decimal_format="string")
_raw_decoder = msgspec.json.Decoder(_Raw)
_payload_decoders = {kind: msgspec.json.Decoder(cls) for kind, cls in PAYLOADS.items()}


def content_id(*parts: str | int) -> str:
    """32 hex digits derived from content. Never pass floats, random numbers, instances or software versions."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def encode(event: Envelope[Any]) -> bytes:
    return _encoder.encode(event)


def decode(data: bytes) -> Envelope[Any]:
    """Raises BadEvent for an unknown kind, an unknown schema version or a payload of another shape."""
    try:
        raw = _raw_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadEvent(f"envelope: {error}") from error
    decoder = _payload_decoders.get(raw.kind)
    if decoder is None:
        raise BadEvent(f"kind: {raw.kind!r} is unknown")
    if raw.schema_version != SCHEMA_VERSION:
        raise BadEvent(f"schema_version: {raw.schema_version} of {raw.kind} is unknown")
    if not 0 <= raw.bar_ts_ms < LATEST_TS_MS:
        raise BadEvent(f"bar_ts_ms: {raw.bar_ts_ms} of {raw.kind} is no time of a bar")
    if raw.timeframe and raw.timeframe not in TIMEFRAME_MS:
        raise BadEvent(f"timeframe: {raw.timeframe!r} of {raw.kind} is unknown")
    try:
        payload = decoder.decode(raw.payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadEvent(f"{raw.kind}.payload: {error}") from error
    return Envelope(
        raw.event_id,
        raw.kind,
        raw.schema_version,
        raw.symbol,
        raw.timeframe,
        raw.bar_ts_ms,
        raw.trace_id,
        raw.produced_at_ms,
        raw.producer,
        payload,
    )


def envelope(
    payload: P,
    *,
    producer: Producer,
    produced_at_ms: int,
    symbol: str = "",
    timeframe: str = "",
    bar_ts_ms: int = 0,
    natural_key: str = "",
) -> Envelope[P]:
    """Wrap a payload. Its id comes from kind, symbol, timeframe, bar, service and natural key: a redo has the same.

    `natural_key` tells apart events of one kind, service, symbol and bar: model version and role, client order id
    and state, the venue's trade id, an account sequence.
    """
    kind = type(payload).__name__
    return Envelope(
        event_id=content_id(kind, symbol, timeframe, bar_ts_ms, producer.service, natural_key),
        kind=kind,
        schema_version=SCHEMA_VERSION,
        symbol=symbol,
        timeframe=timeframe,
        bar_ts_ms=bar_ts_ms,
        trace_id=content_id("bar", symbol, timeframe, bar_ts_ms),
        produced_at_ms=produced_at_ms,
        producer=producer,
        payload=payload,
    )
