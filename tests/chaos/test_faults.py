"""The schedule is a function of the seed, and reaches everything."""

import json
import random
from pathlib import Path

import pytest

from chaos.faults import FIRST_BAR, QUIET_BARS, SERVER, SERVICES, schedule, write_schedule
from chaos.poison import HARMLESS, POISONED_STREAMS, kinds_for, mark_kind, poison
from quantum_common.contracts import REGISTRY, BadEvent, Keys, Look, Producer, decode, encode, envelope

BARS = 200


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    assert schedule(7, BARS) == schedule(7, BARS)
    assert schedule(7, BARS) != schedule(8, BARS)


@pytest.mark.parametrize("seed", range(5))
def test_every_service_is_killed_paused_and_redeployed_and_the_server_killed(seed: int) -> None:
    hits = {(fault.kind, fault.target) for fault in schedule(seed, BARS)}
    assert {(kind, name) for kind in ("kill", "pause", "redeploy") for name in SERVICES} <= hits
    assert {("kill", SERVER), ("slow_disk", SERVER)} <= hits
    assert {(stream, kind) for stream in POISONED_STREAMS for kind in kinds_for(stream)} <= {
        (fault.target, fault.detail) for fault in schedule(seed, BARS)
    }


def test_faults_come_in_order_and_leave_the_last_bars_in_peace() -> None:
    bars = [fault.bar for fault in schedule(3, BARS)]
    assert bars == sorted(bars)
    assert bars[0] >= FIRST_BAR
    assert bars[-1] <= BARS - QUIET_BARS


def test_too_few_bars_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        schedule(1, 10)


def test_a_written_schedule_has_one_line_per_fault(tmp_path: Path) -> None:
    faults = schedule(1, BARS)
    write_schedule(tmp_path / "run" / "schedule.jsonl", faults)
    lines = (tmp_path / "run" / "schedule.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(len(faults)))


LOOK = encode(envelope(Look("clock", 5), producer=Producer("quantum", "1", "1"), produced_at_ms=1, natural_key="5"))


@pytest.mark.parametrize("stream", [Keys().all_streams(spec)[0] for spec in REGISTRY])
def test_poison_is_marked_and_unless_it_is_harmless_refused(stream: str) -> None:
    for number, kind in enumerate(kinds_for(stream.partition(":")[2])):
        fields = poison(kind, 1, number, [LOOK], [], random.Random(1))
        assert fields is not None
        data = fields.get("e", b"")
        assert mark_kind(data) == ("empty" if kind == "no_field" else kind)
        if kind in ("wrong_family", "far_future"):  # events, which the kit refuses where it knows the stream and time
            assert decode(data) != decode(LOOK)
        elif kind in HARMLESS:
            decode(data)
        else:
            with pytest.raises(BadEvent):
                decode(data)


def test_an_entry_of_the_fleet_is_not_taken_for_poison() -> None:
    assert mark_kind(LOOK) is None
