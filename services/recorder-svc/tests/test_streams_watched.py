"""What a look at the streams means: when an alarm begins, what it names, and when it ends."""

from collections.abc import Sequence

import pytest

from quantum_common.bus import GroupInfo, StreamInfo
from quantum_common.contracts import EXECUTIONS, FEATURES, PREDICTIONS
from quantum_common.contracts.streams import ALLOCATIONS, DECISIONS
from recorder_svc.streams import Alarm, Judgement, Kind, Memory, Seen, Storage, judge, never_written

NOW = 1_800_000_000_000
STREAM = "{p00}:predictions"
HOUR_MS = 3_600_000


def id_of(age_s: float) -> str:
    return f"{NOW - int(age_s * 1000)}-0"


def group(name: str = "meta-svc", *, pending: int = 0, lag: int | None = 0, last_age_s: float = 1) -> GroupInfo:
    return GroupInfo(name, pending, lag, id_of(last_age_s))


READ = group("recorder-svc")


def seen(*groups: GroupInfo, length: int = 10, dead: int = 0, **ids: dict[str, str]) -> Seen:
    """The predictions stream, which meta-svc and the recorder read."""
    info = StreamInfo(id_of(1), length, {each.name: each for each in groups})
    return Seen(STREAM, PREDICTIONS, info, ids.get("undelivered", {}), ids.get("pending", {}), dead)


def after(looks: Sequence[Seen], *, every_s: float = 5, started_ms: int = NOW) -> Judgement:
    """Look after look, the last of them now."""
    judged = Judgement([], [], Memory(started_ms))
    for number, each in enumerate(looks):
        judged = judge([each], judged.memory, NOW - int((len(looks) - 1 - number) * every_s * 1000))
    return judged


def kinds(judged: Judgement) -> list[tuple[Kind, str]]:
    return [(alarm.kind, alarm.group) for alarm in judged.alarms]


HEALTHY = seen(group(), READ)
WAITING = group(lag=7, last_age_s=900)
HOLDING = group(pending=3, last_age_s=1)
MANY = 10_001


@pytest.mark.parametrize(
    ("looks", "alarms"),
    [
        ([HEALTHY], []),
        ([seen(READ)], []),
        ([seen(READ)] * 7, [(Kind.GROUP_MISSING, "meta-svc")]),
        ([*[seen(READ)] * 7, HEALTHY], []),
        ([seen(group(lag=None), READ)], [(Kind.LAG_UNKNOWN, "meta-svc")]),
        ([seen(WAITING, READ, undelivered={"meta-svc": id_of(59)})], []),
        ([seen(WAITING, READ, undelivered={"meta-svc": id_of(61)})], [(Kind.UNDELIVERED, "meta-svc")]),
        ([seen(group(lag=lag), READ) for lag in (1, 2, 3, 4, 5, 6)], []),
        ([seen(group(lag=lag), READ) for lag in (1, 2, 3, 4, 5, 6, 7)], [(Kind.LAG_RISING, "meta-svc")]),
        ([seen(group(lag=lag), READ) for lag in (1, 2, 3, 4, 5, 6, 7, 7)], []),
        ([seen(HOLDING, READ, pending={"meta-svc": id_of(599)})], []),
        ([seen(HOLDING, READ, pending={"meta-svc": id_of(601)})], [(Kind.PENDING_OLD, "meta-svc")]),
        ([seen(HOLDING, READ, pending={"meta-svc": id_of(59)}, length=MANY)], []),
        ([seen(HOLDING, READ, pending={"meta-svc": id_of(61)}, length=MANY - 1)], []),
        ([seen(HOLDING, READ, pending={"meta-svc": id_of(61)}, length=MANY)], [(Kind.TRIM_BLOCKED, "meta-svc")]),
        ([seen(group(), READ, dead=2)], [(Kind.DEAD_LETTERS, "")]),
    ],
)
def test_f02_f22_a_condition_is_an_alarm_when_it_lasts_and_none_when_it_is_gone(
    looks: list[Seen], alarms: list[tuple[Kind, str]]
) -> None:
    assert kinds(after(looks)) == alarms


@pytest.mark.parametrize(
    ("look", "named"),
    [
        (
            seen(HOLDING, READ, pending={"meta-svc": id_of(90)}, length=MANY),
            ["meta-svc holds trimming", id_of(90), "has pending since 2027-01-15T07:58:30"],
        ),
        (
            seen(WAITING, READ, undelivered={"meta-svc": id_of(90)}, length=MANY),
            ["meta-svc holds trimming", "has not read since 2027-01-15T07:58:30"],
        ),
    ],
)
def test_f22_a_blocked_trim_names_the_group_that_holds_it_and_since_when(look: Seen, named: list[str]) -> None:
    [text] = [alarm.text for alarm in after([look]).alarms if alarm.kind is Kind.TRIM_BLOCKED]
    assert all(part in text for part in named), text


def test_of_two_groups_the_one_that_needs_the_older_entry_holds_trimming_back() -> None:
    pending = {"meta-svc": id_of(90), "recorder-svc": id_of(91)}
    look = seen(HOLDING, group("recorder-svc", pending=1), pending=pending, length=MANY)
    assert [alarm.group for alarm in after([look]).alarms] == ["recorder-svc"]


def test_the_numbers_of_a_group_are_ages_of_what_waits() -> None:
    look = seen(WAITING, READ, undelivered={"meta-svc": id_of(61)}, pending={"meta-svc": id_of(700)})
    [row] = after([look]).rows
    meta, recorder = row.groups
    assert (meta.lag, meta.undelivered_age_s, meta.pending_age_s, meta.last_delivery_age_s) == (7, 61, 700, 900)
    assert (recorder.lag, recorder.undelivered_age_s, recorder.last_delivery_age_s) == (0, 0, 1)


def test_the_last_delivery_is_when_it_was_seen_and_not_when_the_entry_was_written() -> None:
    looks = [seen(group(last_age_s=900), READ), seen(group(last_age_s=800), READ), seen(group(last_age_s=800), READ)]
    assert after(looks, every_s=5).rows[0].groups[0].last_delivery_age_s == 5


def test_an_alarm_keeps_the_time_at_which_it_began() -> None:
    [alarm] = after([seen(group(lag=None), READ)] * 4).alarms
    assert (alarm.since_ms, alarm.kind) == (NOW - 15_000, Kind.LAG_UNKNOWN)


def fleet(*written: str) -> list[Seen]:
    """The streams of one partition, of which these have entries; every group is up to date."""
    names = {"{p00}:features": FEATURES, "{p00}:predictions": PREDICTIONS, "{p00}:decisions": DECISIONS}
    names |= {"{paper}:allocations": ALLOCATIONS, "{paper}:executions": EXECUTIONS}
    return [
        Seen(
            stream,
            spec,
            StreamInfo(
                id_of(1) if spec.name in written else "0-0",
                1,
                {name: group(name) for name in spec.consumers},
            ),
        )
        for stream, spec in names.items()
    ]


@pytest.mark.parametrize(
    ("written", "silent"),
    [
        ((), []),
        (("executions",), []),
        (("features", "executions"), ["{p00}:predictions"]),
        (("features", "predictions", "executions"), ["{p00}:decisions"]),
        (("features", "predictions", "decisions", "executions"), ["{paper}:allocations"]),
        (("features", "predictions", "decisions", "allocations", "executions"), []),
        (("features", "predictions", "decisions", "allocations"), ["{paper}:executions"]),
    ],
)
def test_f05_a_stream_whose_producer_does_not_run_is_named(written: tuple[str, ...], silent: list[str]) -> None:
    first = judge(fleet(*written), Memory(NOW), NOW - 61_000)
    assert [alarm.stream for alarm in judge(fleet(*written), first.memory, NOW).alarms] == silent
    assert first.alarms == [], "a start gets its time"


def test_f05_features_that_stop_in_a_live_market_name_feature_svc() -> None:
    def alarms(age_s: float, bar_ms: int | None) -> Sequence[Alarm]:
        now_ms = NOW + int(age_s * 1000)
        memory = judge(fleet("features", "predictions"), Memory(NOW), now_ms - 61_000, bar_ms=bar_ms).memory
        judged = judge(fleet("features", "predictions"), memory, now_ms, bar_ms=bar_ms)
        return [alarm for alarm in judged.alarms if alarm.stream == "{p00}:features"]

    assert alarms(7200, HOUR_MS) == []
    [alarm] = alarms(7300, HOUR_MS)
    assert alarm.kind is Kind.SILENT
    assert "feature-svc" in alarm.text
    assert alarms(7300, None) == [], "a replay may rest"


def test_f05_a_start_names_what_was_never_written_and_by_whom() -> None:
    assert never_written(fleet("features", "predictions", "decisions")) == [
        "{paper}:allocations (governer-svc)",
        "{paper}:executions (executor-svc)",
    ]


@pytest.mark.parametrize(
    ("storage", "alarms"),
    [
        (Storage(), []),
        (Storage(memory=0.8, disk=0.95), []),
        (Storage(memory=0.81), [Kind.MEMORY]),
        (Storage(disk=0.96), [Kind.DISK]),
    ],
)
def test_f22_memory_and_disk_that_run_out_are_told_before_they_are_gone(storage: Storage, alarms: list[Kind]) -> None:
    assert [alarm.kind for alarm in judge([HEALTHY], Memory(NOW), NOW, storage=storage).alarms] == alarms
