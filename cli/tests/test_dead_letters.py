"""Dead letters on both buses: ids that can be typed, replays that happen once, nothing else touched."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from quantum_cli.dead_letters import DeadLetters, NeverAnEntry, NoSuchLetter
from quantum_cli.errors import UsageError
from quantum_common.bus import Bus, DeadLetter, MemoryBus, RedisBus, Status, Unit
from quantum_common.contracts import Keys, dead
from quantum_common.testing import running_server

KEYS = Keys(partitions=2)
DECISIONS, FEATURES, FEATURES_1, EXECUTIONS = (
    "{p00}:decisions",
    "{p00}:features",
    "{p01}:features",
    "{paper}:executions",
)


@pytest.fixture(params=["memory", "redis"])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    if request.param == "memory":
        yield MemoryBus()
        return
    with running_server(tmp_path) as url:
        bus = RedisBus.connect(url)
        yield bus
        await bus.close()


@pytest.fixture
def letters(bus: Bus) -> DeadLetters:
    return DeadLetters(bus, KEYS)


async def put(
    bus: Bus,
    stream: str = DECISIONS,
    entry_id: str = "7-0",
    group: str = "meta-svc",
    reason: str = "bad",
    data: bytes = b"x",
) -> str:
    """Write a letter as the kit does; returns its entry id."""
    return await bus.append(dead(stream), msgspec.json.encode(DeadLetter(stream, entry_id, group, 1, reason, data)))


async def data_of(bus: Bus, stream: str) -> list[bytes]:
    return [entry.data for entry in reversed(await bus.newest(stream, 100))]


async def ids(letters: DeadLetters) -> list[str]:
    return [letter.id for letter in await letters.matching()]


async def test_letters_of_all_streams_are_listed_newest_first(bus: Bus, letters: DeadLetters) -> None:
    for number in range(3):
        await put(bus, entry_id=f"{number + 1}-0", reason=f"bad {number}")
    assert [letter.content.reason for letter in await letters.newest(10)] == ["bad 2", "bad 1", "bad 0"]
    assert [letter.content.reason for letter in await letters.newest(2)] == ["bad 2", "bad 1"]


async def test_the_newest_of_several_streams_come_before_older_ones(bus: Bus, letters: DeadLetters) -> None:
    await put(bus, EXECUTIONS, reason="first")
    await put(bus, DECISIONS, reason="before second")
    await put(bus, DECISIONS, reason="second")
    found = await letters.newest(10)
    assert [letter.at_ms for letter in found] == sorted((letter.at_ms for letter in found), reverse=True)
    assert {letter.content.reason for letter in found} == {"first", "before second", "second"}


async def test_a_stream_may_be_named_with_or_without_its_partition(bus: Bus, letters: DeadLetters) -> None:
    await put(bus, FEATURES, reason="zero")
    await put(bus, FEATURES_1, reason="one")
    await put(bus, DECISIONS, reason="other")
    for name, expected in (("features", {"zero", "one"}), ("p01:features", {"one"}), ("{p01}:features", {"one"})):
        assert {letter.content.reason for letter in await letters.newest(10, name)} == expected
    with pytest.raises(UsageError, match=r"--stream 'feature': use one of features, predictions, decisions"):
        await letters.newest(10, "feature")


async def test_an_id_is_accepted_as_printed_and_with_the_braces_of_the_stream(bus: Bus, letters: DeadLetters) -> None:
    await put(bus, FEATURES_1, reason="older")
    entry_id = await put(bus, FEATURES_1, reason="meant")
    await put(bus, FEATURES_1, reason="newer")
    for typed in (f"p01:features:{entry_id}", f"{{p01}}:features:{entry_id}", f" p01:features:{entry_id} "):
        letter = await letters.get(typed)
        assert (letter.content.reason, letter.id) == ("meant", f"p01:features:{entry_id}")


@pytest.mark.parametrize(
    "letter_id",
    ["", "x", "p00:decisions", "p00:decisions:", "p00:decisions:x", "p00:decisions:1", "p00:decisions:-1-0",
     "p00:nothing:1-0", "p02:decisions:1-0", "p00:decisions:dead:1-0", f"p00:decisions:1-{2**64}"],
)  # fmt: skip
async def test_what_is_no_id_is_wrong_usage(letters: DeadLetters, letter_id: str) -> None:
    with pytest.raises(UsageError, match="is no id of a dead letter"):
        await letters.get(letter_id)


@pytest.mark.parametrize("letter_id", ["p00:decisions:0-0", "p00:decisions:99-0", f"p00:decisions:{2**64 - 1}-0"])
async def test_an_id_of_no_letter_is_named(bus: Bus, letters: DeadLetters, letter_id: str) -> None:
    await put(bus)
    for act in (letters.get, letters.replay, letters.drop):
        with pytest.raises(NoSuchLetter, match=letter_id):
            await act(letter_id)
    assert len(await ids(letters)) == 1


async def test_a_replay_puts_the_original_bytes_back_and_removes_the_letter(bus: Bus, letters: DeadLetters) -> None:
    original = bytes(range(256))
    await put(bus, entry_id="5-0", data=b"other")
    await put(bus, entry_id="6-0", data=original)
    other, mine = await ids(letters)
    assert [letter.id for letter in await letters.replay(mine)] == [mine]
    assert await data_of(bus, DECISIONS) == [original]
    assert await ids(letters) == [other]


async def test_letters_of_several_groups_about_one_entry_are_replayed_as_one(bus: Bus, letters: DeadLetters) -> None:
    await put(bus, group="governer-svc", data=b"once")
    await put(bus, group="recorder-svc", data=b"once")
    await put(bus, entry_id="8-0", group="recorder-svc", data=b"another")
    first, _, another = await ids(letters)
    assert len(await letters.replay(first)) == 2
    assert await data_of(bus, DECISIONS) == [b"once"]
    assert await ids(letters) == [another]


async def test_replaying_all_takes_each_entry_once_and_leaves_what_never_was_one(
    bus: Bus, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantum_cli.dead_letters.PAGE", 2)
    await put(bus, FEATURES, "", "feature-svc", "bad_bar: high", b"candle")
    for group in ("governer-svc", "recorder-svc"):
        await put(bus, entry_id="7-0", group=group, data=b"seven")
    await put(bus, entry_id="8-0", data=b"eight")
    await put(bus, EXECUTIONS, data=b"fill")
    removed, left = await letters.replay_all(None, "")
    assert (len(removed), [letter.content.data for letter in left]) == (4, [b"candle"])
    assert await data_of(bus, DECISIONS) == [b"seven", b"eight"]
    assert await data_of(bus, EXECUTIONS) == [b"fill"]
    assert await ids(letters) == [left[0].id]


async def test_the_filters_choose_by_stream_and_reason(bus: Bus, letters: DeadLetters) -> None:
    await put(bus, entry_id="1-0", reason="KeyError: a", data=b"a")
    await put(bus, entry_id="2-0", reason="bad_event: b", data=b"b")
    await put(bus, EXECUTIONS, entry_id="3-0", reason="KeyError: c", data=b"c")
    await letters.replay_all("decisions", "KeyError")
    assert await data_of(bus, DECISIONS) == [b"a"]
    assert await data_of(bus, EXECUTIONS) == []
    assert len(await letters.matching(reason_contains="KeyError")) == 1


async def test_a_refused_candle_is_not_replayed_but_can_be_dropped(bus: Bus, letters: DeadLetters) -> None:
    await put(bus, FEATURES, "", "feature-svc", "bad_bar: high", b"candle")
    [letter_id] = await ids(letters)
    with pytest.raises(NeverAnEntry, match="was never an entry of"):
        await letters.replay(letter_id)
    assert await data_of(bus, FEATURES) == []
    await letters.drop(letter_id)
    assert await ids(letters) == []
    assert await data_of(bus, FEATURES) == []


async def test_dropping_takes_one_letter_and_no_other_of_its_entry(bus: Bus, letters: DeadLetters) -> None:
    await put(bus, group="governer-svc")
    await put(bus, group="recorder-svc")
    first, second = await ids(letters)
    await letters.drop(first)
    assert await ids(letters) == [second]
    assert await data_of(bus, DECISIONS) == []


async def test_a_letter_that_cannot_be_read_is_shown_and_can_only_be_dropped(bus: Bus, letters: DeadLetters) -> None:
    await bus.append(dead(DECISIONS), b"\xff{")
    [letter] = await letters.newest(10)
    assert letter.content.data == b"\xff{"
    assert letter.content.reason.startswith("unreadable letter")
    with pytest.raises(NeverAnEntry):
        await letters.replay(letter.id)
    await letters.drop(letter.id)
    assert await ids(letters) == []


class Watched(MemoryBus):
    """Keeps the commits, and lets something happen right before the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.units: list[Unit] = []
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def commit(self, units: Sequence[Unit]) -> list[Status]:
        if meanwhile := self.meanwhile:
            self.meanwhile = None
            await meanwhile()
        self.units += units
        return await super().commit(units)


async def test_output_and_removal_are_one_unit() -> None:
    bus = Watched()
    letters = DeadLetters(bus, KEYS)
    await put(bus, data=b"x")
    [letter_id] = await ids(letters)
    await letters.replay(letter_id)
    [unit] = bus.units
    assert [output.data for output in unit.outputs] == [b"x"]
    assert [write[:2] for write in unit.writes] == [("XDEL", dead(DECISIONS))]


@pytest.mark.parametrize(("other", "written"), [("replay", [b"x"]), ("drop", [])])
async def test_of_two_operators_who_take_the_same_letter_one_finds_it_gone(other: str, written: list[bytes]) -> None:
    bus = Watched()
    letters = DeadLetters(bus, KEYS)
    await put(bus, data=b"x")
    [letter_id] = await ids(letters)
    bus.meanwhile = lambda: getattr(DeadLetters(bus, KEYS), other)(letter_id)
    with pytest.raises(NoSuchLetter):
        await letters.replay(letter_id)
    assert await data_of(bus, DECISIONS) == written


async def test_a_letter_is_still_replayed_when_another_one_of_the_stream_goes_meanwhile() -> None:
    bus = Watched()
    letters = DeadLetters(bus, KEYS)
    await put(bus, entry_id="1-0", data=b"a")
    await put(bus, entry_id="2-0", data=b"b")
    first, second = await ids(letters)
    bus.meanwhile = lambda: DeadLetters(bus, KEYS).replay(first)
    await letters.replay(second)
    assert await data_of(bus, DECISIONS) == [b"a", b"b"]
    assert await ids(letters) == []
