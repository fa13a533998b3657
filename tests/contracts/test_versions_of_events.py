"""A redeploy mixes versions: whatever version N−1 wrote is read today, and whatever is written today N−1 reads."""

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec
import pytest

from contracts.builders import examples, stream_of
from contracts.compatibility import (
    RULE,
    broken_rules,
    previous,
    problems,
    read_by_previous,
    unread_by_previous,
    unread_today,
    written_by_next,
    written_by_previous,
)
from contracts.snapshot import without_words
from quantum_common.contracts import PAYLOADS, Candle, DecisionMade, Envelope, Producer, Vote, decode, encode

KINDS = sorted(previous())


def today(kind: str) -> bytes:
    return encode(examples()[kind])


def schema_of(payload: type[msgspec.Struct], envelope: Any = Envelope) -> dict[str, Any]:
    return without_words(msgspec.json.schema(envelope[payload]))


def test_every_kind_of_version_n_minus_1_still_exists_on_its_stream() -> None:
    moved = {kind: stored.stream for kind, stored in previous().items() if stream_of(kind) != stored.stream}
    assert moved == {}, f"removed, or moved from these streams: {moved}; keep the kind there, {RULE}"


def test_every_kind_has_an_example() -> None:
    assert set(examples()) == set(PAYLOADS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shape_of_a_kind_changed_in_no_way_that_breaks_version_n_minus_1(kind: str) -> None:
    found = broken_rules(kind, previous()[kind].schema, schema_of(PAYLOADS[kind]))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("kind", KINDS)
def test_version_n_minus_1_and_today_read_each_other(kind: str) -> None:
    found = problems(kind, schema_of(PAYLOADS[kind]), decode, lambda: today(kind))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_fields_are_ignored_at_every_level(kind: str) -> None:
    assert decode(written_by_next(today(kind))) == examples()[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_reader_ignores_unknown_fields_too(kind: str) -> None:
    data = today(kind)
    assert read_by_previous(written_by_next(data)) == read_by_previous(data)


def test_what_the_old_writer_writes_has_no_field_that_it_does_not_know() -> None:
    data = today("DecisionMade")
    assert b"added_later" not in written_by_previous(written_by_next(data))
    assert decode(written_by_previous(data)) == examples()["DecisionMade"]


# -- Each rule sees the change that it is there for


Change = dict[str, Any]
"""field → its new type, or None: removed."""


class Louder(StrEnum):
    SELL = "SELL"
    HOLD = "HOLD"
    BUY = "BUY"
    SHOUT = "SHOUT"


def changed(cls: type[msgspec.Struct], change: Change, *, optional: bool = False) -> type[msgspec.Struct]:
    """The struct with some fields removed, retyped or added; `optional` gives those a default."""
    fields = {field.name: (field.type, _default(field)) for field in msgspec.structs.fields(cls)}
    added = {name: (kind, {"default": None} if optional else {}) for name, kind in change.items()}
    rows = [
        (name, kind, msgspec.field(**default)) for name, (kind, default) in (fields | added).items() if kind is not None
    ]
    return msgspec.defstruct(cls.__name__, rows, frozen=True, kw_only=True)


def _default(field: Any) -> dict[str, Any]:
    return {} if field.default is msgspec.NODEFAULT else {"default": field.default}


def payload_of(kind: str) -> dict[str, Any]:
    return dict(previous()[kind].event["payload"])


def reader(payload: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(Envelope[payload]).decode  # type: ignore[valid-type]


def planted(kind: str, cls: type[msgspec.Struct], values: dict[str, Any]) -> list[str]:
    """What the rules say when a kind becomes `cls` and `values` is what is written then."""
    payload = {name: value for name, value in (payload_of(kind) | values).items() if name in cls.__struct_fields__}
    event = previous()[kind].event | {"payload": payload}
    return problems(kind, schema_of(cls), reader(cls), lambda: msgspec.json.encode(event))


@pytest.mark.parametrize(
    ("kind", "change", "written", "named"),
    [
        ("FundingPaid", {"amount": None}, {}, "FundingPaid.payload.amount: removed or renamed"),
        (
            "OrderAccepted",
            {"venue_order_id": None, "order_id": str},
            {"order_id": "1"},
            "payload.venue_order_id: removed",
        ),
        ("OrderFilled", {"sequence": str}, {"sequence": "0"}, "OrderFilled.payload.sequence: integer became string"),
        ("OrderFilled", {"price": float}, {"price": 67321.9}, "OrderFilled.payload.price: decimal became number"),
        ("DecisionMade", {"votes": Vote}, {"votes": {}}, "DecisionMade.payload.votes: array became object"),
        ("FeaturesComputed", {"session": int}, {"session": 1}, "FeaturesComputed.payload.session: new and required"),
        (
            "FeaturesComputed",
            {"candle": changed(Candle, {"volume": None})},
            {"candle": {"open": 1, "high": 1, "low": 1, "close": 1}},
            "FeaturesComputed.payload.candle.volume: removed or renamed",
        ),
        (
            "DecisionMade",
            {"meta_confidence": float},
            {},
            "DecisionMade.payload.meta_confidence: number or null became number",
        ),
    ],
)
def test_a_breaking_change_is_named_with_its_kind_and_field(
    kind: str, change: Change, written: dict[str, Any], named: str
) -> None:
    found = planted(kind, changed(PAYLOADS[kind], change), written)
    assert any(named in row and RULE in row for row in found), found


def test_a_new_value_of_an_enumeration_is_named_because_old_readers_refuse_it() -> None:
    louder = changed(PAYLOADS["PositionApproved"], {"action": Louder})
    found = planted("PositionApproved", louder, {"action": "SHOUT"})
    assert any("PositionApproved.payload.action: value 'SHOUT' is new" in row for row in found), found
    assert any("cannot read an event of today" in row for row in found), found


def test_a_value_that_is_gone_is_named_because_old_writers_still_write_it() -> None:
    class Quieter(StrEnum):
        HOLD = "HOLD"

    found = planted("PositionApproved", changed(PAYLOADS["PositionApproved"], {"action": Quieter}), {"action": "HOLD"})
    assert any("PositionApproved.payload.action: value 'BUY' is gone" in row for row in found), found


def test_a_new_value_deep_in_a_list_is_seen_although_no_example_carries_it() -> None:
    votes = tuple[changed(Vote, {"action": Louder | None}), ...]  # type: ignore[misc]
    found = broken_rules(
        "DecisionMade", previous()["DecisionMade"].schema, schema_of(changed(DecisionMade, {"votes": votes}))
    )
    assert found
    assert found[0].startswith("DecisionMade.payload.votes[].action: value 'SHOUT' is new")


def test_a_required_field_that_may_be_left_out_is_named() -> None:
    loose = changed(PAYLOADS["FundingPaid"], {"amount": Decimal | None}, optional=True)
    found = broken_rules("FundingPaid", previous()["FundingPaid"].schema, schema_of(loose))
    assert any(row.startswith("FundingPaid.payload.amount: may be missing now") for row in found), found


def test_an_optional_field_that_becomes_required_is_named() -> None:
    strict = changed(PAYLOADS["PositionApproved"], {"reason": str})
    found = broken_rules("PositionApproved", previous()["PositionApproved"].schema, schema_of(strict))
    assert found == [f"PositionApproved.payload.reason: required now, and version N−1 may leave it out; {RULE}"]


def test_the_envelope_is_held_to_the_same_rules() -> None:
    class Longer(Producer, frozen=True):
        host: str

    envelope = changed(Envelope[PAYLOADS["Look"]], {"producer": Longer, "payload": PAYLOADS["Look"]})  # type: ignore[misc]
    found = broken_rules("Look", previous()["Look"].schema, without_words(msgspec.json.schema(envelope)))
    assert found == [f"Look.producer.host: new and required, and version N−1 never writes it; {RULE}"]


def test_the_readers_alone_see_a_field_that_is_gone_or_retyped() -> None:
    """Without the comparison of schemas: the examples themselves are read both ways."""
    gone = changed(PAYLOADS["FundingPaid"], {"amount": None})
    assert unread_today("FundingPaid", reader(gone)) == [
        f"FundingPaid.payload.amount of version N−1 is read differently today; {RULE}"
    ]
    event = previous()["FundingPaid"].event | {"payload": {"market_ts_ms": 1}}
    (row,) = unread_by_previous("FundingPaid", msgspec.json.encode(event))
    assert "missing required field `amount`" in row
    needy = changed(PAYLOADS["FundingPaid"], {"rate": float})
    (row,) = unread_today("FundingPaid", reader(needy))
    assert "missing required field `rate`" in row


def test_a_reader_that_gets_another_value_is_named() -> None:
    def careless(data: bytes) -> Any:
        return msgspec.structs.replace(decode(data), symbol="ETHUSDT")

    found = problems("FundingPaid", schema_of(PAYLOADS["FundingPaid"]), careless, lambda: today("FundingPaid"))
    assert found == [f"FundingPaid.symbol of version N−1 is read differently today; {RULE}"]


def test_a_writer_whose_values_the_old_reader_gets_differently_is_named() -> None:
    def numbers() -> bytes:
        return msgspec.json.Encoder(decimal_format="number").encode(examples()["FundingPaid"])

    found = problems("FundingPaid", schema_of(PAYLOADS["FundingPaid"]), decode, numbers)
    assert found == [f"FundingPaid.payload.amount of today is read differently by version N−1; {RULE}"]


@pytest.mark.parametrize("value", [None, 3])
def test_an_optional_field_is_the_change_that_works(value: int | None) -> None:
    grown = changed(PAYLOADS["FundingPaid"], {"interval_hours": int | None}, optional=True)
    assert planted("FundingPaid", grown, {"interval_hours": value}) == []
