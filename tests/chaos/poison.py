"""Entries that nobody of the fleet wrote. Each carries a mark, so that it is known again wherever it turns up."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from quantum_common.contracts import PREDICTIONS, REGISTRY

POISONED_STREAMS = tuple(spec.name for spec in REGISTRY)
HARMLESS = frozenset({"repeat", "unknown_agent"})
"""Well-formed: taken in without an effect. All the others end on the dead-letter stream, once per group."""
FATAL = (
    "not_json",
    "unknown_kind",
    "wrong_family",
    "wrong_version",
    "impossible_time",
    "far_future",
    "wrong_types",
    "empty",
    "no_field",
)

_MARK = re.compile(rb"chaos:(\d+):(\d+):(\w+)")
_NOWHERE: dict[str, Any] = {
    "event_id": "0" * 32,
    "kind": "Look",
    "schema_version": 1,
    "symbol": "",
    "timeframe": "",
    "bar_ts_ms": 0,
    "trace_id": "0" * 32,
    "produced_at_ms": 0,
    "producer": {"service": "chaos", "instance": "1", "version": "0"},
    "payload": {"subject": "models"},
}


def kinds_for(stream: str) -> tuple[str, ...]:
    return (*FATAL, "repeat", "unknown_agent") if stream == PREDICTIONS.name else (*FATAL, "repeat")


def mark_kind(data: bytes) -> str | None:
    """Kind of poison that stands in an entry's data; None for an entry of the fleet."""
    if not data:
        return "empty"
    found = _MARK.search(data)
    return found.group(3).decode() if found else None


def poison(
    kind: str, seed: int, number: int, real: Sequence[bytes], others: Sequence[bytes], rng: random.Random
) -> Mapping[str, bytes] | None:
    """Fields of the entry. `real`: events of the stream, newest first; `others`: of another one.

    None when there is no real event yet to make it from.
    """
    mark = f"chaos:{seed}:{number}:{kind}"
    if kind == "empty":
        return {"e": b""}
    if kind == "no_field":
        return {"x": mark.encode()}
    if kind == "not_json":
        return {"e": b"\xff{" + mark.encode()}
    if kind == "repeat":
        if not real:
            return None
        return {"e": _marked(json.loads(rng.choice(real)), mark)}
    if kind == "wrong_family":
        return {"e": _marked({**(json.loads(others[0]) if others else _NOWHERE), "event_id": f"{number:032d}"}, mark)}
    if kind == "unknown_agent" and not real:
        return None
    event = json.loads(real[0]) if real else dict(_NOWHERE)
    event["event_id"] = f"{number:032d}"
    event.update(_change(kind, event, rng))
    return {"e": _marked(event, mark)}


def _change(kind: str, event: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    match kind:
        case "unknown_kind":
            return {"kind": "PriceImagined"}
        case "wrong_version":
            return {"schema_version": 99}
        case "impossible_time":
            return {"bar_ts_ms": rng.choice((-1, 10**15, -(10**18), 2**62))}
        case "far_future":
            return {"bar_ts_ms": 4_000_003_200_000}
        case "wrong_types":
            return {"payload": {name: [[value]] for name, value in event["payload"].items()}}
        case "unknown_agent":
            return {"payload": {**event["payload"], "agent": "martian"}}
    raise ValueError(kind)


def _marked(event: Mapping[str, Any], mark: str) -> bytes:
    """Unknown fields are ignored, so the mark changes nothing."""
    return json.dumps({**event, "mark": mark}).encode()
