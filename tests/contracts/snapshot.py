"""Writes today's contracts and commit function to `previous/`: after a release they are version N−1.

Run `python tests/contracts/snapshot.py` once per release, never to make a failing test pass: a running fleet still
reads and writes the version before.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

PREVIOUS = Path(__file__).parent / "previous"
HEADER = "-- Version N-1, loaded beside today's.\n"


def described() -> dict[str, Any]:
    """kind → its stream, one event as encoded today, and the JSON schema of the whole event."""
    from contracts.builders import examples, stream_of
    from quantum_common.contracts import PAYLOADS, Envelope, encode

    return {
        kind: {
            "stream": stream_of(kind),
            "event": msgspec.json.decode(encode(event)),
            "schema": without_words(msgspec.json.schema(Envelope[PAYLOADS[kind]])),  # type: ignore[misc]
        }
        for kind, event in examples().items()
    }


def without_words(schema: Any) -> Any:
    """Docstrings and titles may change freely."""
    if isinstance(schema, list):
        return [without_words(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    # Under `properties` and `$defs` the keys are names of ours, and a field may well be called `title`.
    return {
        key: {name: without_words(each) for name, each in value.items()}
        if key in ("properties", "$defs")
        else without_words(value)
        for key, value in schema.items()
        if key not in ("title", "description")
    }


def write() -> None:
    text = msgspec.json.format(msgspec.json.encode(described()), indent=1)
    (PREVIOUS / "contracts.json").write_bytes(text + b"\n")
    source = (files("quantum_common.bus") / "functions.lua").read_text()
    (PREVIOUS / "functions.lua").write_text(HEADER + source.removeprefix(HEADER))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    write()
