"""What lets version N−1 and today's code read each other: the stored version, readers built from it, and the rules."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union

import msgspec

RULE = "add an optional field, or a new schema version beside the old"
READERS_FIRST = "N−1 readers refuse it: let a release read the value before one writes it, or " + RULE.split(", or ")[1]
_STORED = Path(__file__).parent / "previous" / "contracts.json"
_PLAIN = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None}
_to_json = msgspec.json.Encoder(decimal_format="string")

Schema = dict[str, Any]


class Previous(msgspec.Struct, frozen=True):
    """A kind of event as version N−1 knows it."""

    stream: str
    event: dict[str, Any]
    schema: Schema


@cache
def previous() -> dict[str, Previous]:
    return msgspec.json.decode(_STORED.read_bytes(), type=dict[str, Previous])


# -- Readers and writers of version N−1


def type_of(schema: Schema) -> Any:
    """The struct that version N−1 decodes into, rebuilt from its schema."""
    defs, made = schema.get("$defs", {}), {}

    def build(part: Schema) -> Any:
        if "$ref" in part:
            name = part["$ref"].rpartition("/")[2]
            return made.get(name) or made.setdefault(name, build({"title": name, **defs[name]}))
        if "anyOf" in part:
            return Union[tuple(build(each) for each in part["anyOf"])]  # noqa: UP007
        if "enum" in part:
            return Literal[tuple(part["enum"])]
        if "properties" in part:
            return struct(part)
        if part.get("type") == "object":
            return dict[str, build(part["additionalProperties"])]  # type: ignore[misc]
        if "prefixItems" in part:
            return tuple[tuple(build(each) for each in part["prefixItems"])]  # type: ignore[misc]
        if part.get("type") == "array":
            return tuple[build(part["items"]), ...]  # type: ignore[misc]
        return Decimal if part.get("format") == "decimal" else _PLAIN[part["type"]]

    def struct(part: Schema) -> Any:
        fields = [
            (name, build(each)) if name in part["required"] else (name, build(each), each.get("default"))
            for name, each in part["properties"].items()
        ]
        return msgspec.defstruct(part["title"], fields, frozen=True, kw_only=True)

    return build(schema)


@cache
def _old_decoder(kind: str) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_of(previous()[kind].schema))


def read_by_previous(data: bytes) -> Any:
    """Decode as version N−1 does. Raises msgspec.ValidationError."""
    return _old_decoder(msgspec.json.decode(data)["kind"]).decode(data)


def written_by_previous(data: bytes) -> bytes:
    """An event of today as a process of version N−1 would have written it."""
    return _to_json.encode(read_by_previous(data))


def written_by_next(data: bytes) -> bytes:
    """An event of today as a later version may write it: with fields that nobody knows yet, at every level."""
    return _to_json.encode(_with_unknown_fields(msgspec.json.decode(data)))


_MAPPINGS = ("min_notional_usd",)
"""Fields whose keys are data: nothing is added there."""


def _with_unknown_fields(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_unknown_fields(each) for each in value]
    if not isinstance(value, dict):
        return value
    known = {name: each if name in _MAPPINGS else _with_unknown_fields(each) for name, each in value.items()}
    return {"added_later": {"text": "x", "numbers": [1, 2.5, None]}, **known, "added_last": 1}


# -- The rules


def problems(kind: str, schema: Schema, read: Callable[[bytes], Any], write: Callable[[], bytes]) -> list[str]:
    """Why version N−1 and a version with this schema, reader and writer cannot run together; empty when they can."""
    return [
        *broken_rules(kind, previous()[kind].schema, schema),
        *unread_today(kind, read),
        *unread_by_previous(kind, write()),
    ]


def unread_today(kind: str, read: Callable[[bytes], Any]) -> list[str]:
    """Today's reader on the stored event: it must get every value that stands there."""
    stored = previous()[kind].event
    try:
        seen = msgspec.json.decode(_to_json.encode(read(msgspec.json.encode(stored))))
    except Exception as error:
        return [f"{kind}: today's code cannot read an event of version N−1: {error}; {RULE}"]
    return [f"{kind}.{each} of version N−1 is read differently today; {RULE}" for each in differences(stored, seen)]


def unread_by_previous(kind: str, data: bytes) -> list[str]:
    """The N−1 reader on an event of today: it must get the values that stand there."""
    try:
        seen = msgspec.json.decode(_to_json.encode(_old_decoder(kind).decode(data)))
    except msgspec.ValidationError as error:
        return [f"{kind}: version N−1 cannot read an event of today: {error}; {RULE}"]
    written = msgspec.json.decode(data)
    return [f"{kind}.{each} of today is read differently by version N−1; {RULE}" for each in differences(seen, written)]


def differences(fewer: Any, more: Any, path: str = "") -> list[str]:
    """Paths at which `more` lacks or changes what stands in `fewer`; what it has beyond that does not matter."""
    if isinstance(fewer, dict) and isinstance(more, dict):
        missing = [_joined(path, name) for name in fewer if name not in more]
        shared = [name for name in fewer if name in more]
        return missing + [row for name in shared for row in differences(fewer[name], more[name], _joined(path, name))]
    if isinstance(fewer, list) and isinstance(more, list) and len(fewer) == len(more):
        return [
            row
            for number, pair in enumerate(zip(fewer, more, strict=True))
            for row in differences(*pair, f"{path}[{number}]")
        ]
    return [] if fewer == more else [path]


def broken_rules(kind: str, old: Schema, new: Schema) -> list[str]:
    """Changes of shape that no example might show: an event carries one value of an enumeration, a schema all."""
    return [f"{kind}.{row}" for row in _changes("", old, new, old.get("$defs", {}), new.get("$defs", {}))]


def _changes(path: str, old: Schema, new: Schema, old_defs: Schema, new_defs: Schema) -> list[str]:
    old, new = _resolved(old, old_defs), _resolved(new, new_defs)
    if old == new and "$ref" not in str(old):
        return []
    if "enum" in old and "enum" in new:
        gone = [f"{path}: value {each!r} is gone; {RULE}" for each in old["enum"] if each not in new["enum"]]
        return gone + [
            f"{path}: value {each!r} is new; {READERS_FIRST}" for each in new["enum"] if each not in old["enum"]
        ]
    if "properties" in old and "properties" in new:
        return _changed_fields(path, old, new, old_defs, new_defs)
    pairs = _parts(old), _parts(new)
    if pairs[0] is None or pairs[1] is None or len(pairs[0]) != len(pairs[1]) or old.keys() != new.keys():
        return [f"{path}: {_type_name(old)} became {_type_name(new)}; {RULE}"]
    inner = path if "anyOf" in old else path + "[]"
    return [row for was, now in zip(*pairs, strict=True) for row in _changes(inner, was, now, old_defs, new_defs)]


def _changed_fields(path: str, old: Schema, new: Schema, old_defs: Schema, new_defs: Schema) -> list[str]:
    rows = []
    for name, was in old["properties"].items():
        where = _joined(path, name)
        if name not in new["properties"]:
            rows.append(f"{where}: removed or renamed; {RULE}")
            continue
        if name in old["required"] and name not in new["required"]:
            rows.append(f"{where}: may be missing now, and version N−1 needs it; {RULE}")
        elif name not in old["required"] and name in new["required"]:
            rows.append(f"{where}: required now, and version N−1 may leave it out; {RULE}")
        rows += _changes(where, _without_default(was), _without_default(new["properties"][name]), old_defs, new_defs)
    added = [name for name in new["properties"] if name not in old["properties"] and name in new["required"]]
    return rows + [
        f"{_joined(path, name)}: new and required, and version N−1 never writes it; {RULE}" for name in added
    ]


def _resolved(schema: Schema, defs: Schema) -> Schema:
    return defs[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _parts(schema: Schema) -> list[Schema] | None:
    """What a union, an array or a mapping is made of; None for a plain type."""
    if "prefixItems" in schema:
        return list(schema["prefixItems"])
    if schema.get("type") == "array":
        return [schema["items"]]
    if schema.get("type") == "object":
        return [schema.get("additionalProperties", {})]
    return schema.get("anyOf")


def _without_default(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name != "default"}


def _type_name(schema: Schema) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_name(each) for each in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    return str(schema.get("format") or schema.get("type") or "enumeration")


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
