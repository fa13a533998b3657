"""One behaviour suite for every implementation of the bus."""

import asyncio

import pytest

from quantum_common.bus import Bus, Entry, Output, StateWrite, Status, Unit, Watermark, commit_together

IN, OUT, GROUP = "{p00}:in", "{p00}:out", "worker"


async def written(bus: Bus, count: int, stream: str = IN) -> None:
    for number in range(count):
        await bus.append(stream, b"%d" % number)


async def read(bus: Bus, consumer: str = "1", stream: str = IN) -> list[Entry]:
    return await bus.read([stream], GROUP, consumer, count=100, block_ms=50)


async def data_of(bus: Bus, stream: str = OUT) -> list[bytes]:
    return [entry.data for entry in reversed(await bus.newest(stream, 100))]


async def test_a_group_made_late_still_sees_what_was_written_before(bus: Bus) -> None:
    await written(bus, 3)
    await bus.ensure_group(IN, GROUP)
    assert [entry.data for entry in await read(bus)] == [b"0", b"1", b"2"]


async def test_reading_recreates_a_lost_group_without_loss(bus: Bus) -> None:
    await written(bus, 2)
    found = await read(bus) or await read(bus)
    assert [entry.data for entry in found] == [b"0", b"1"]


async def test_a_commit_emits_and_acknowledges_in_one_step(bus: Bus) -> None:
    await bus.ensure_group(IN, GROUP)
    await written(bus, 2)
    entries = await read(bus)
    assert await bus.commit([Unit(inputs=entries, outputs=[Output(OUT, b"a"), Output(OUT, b"b")])]) == [Status.OK]
    assert await data_of(bus) == [b"a", b"b"]
    assert (await bus.stream_infos([IN]))[IN].groups[GROUP].pending == 0


async def test_an_input_that_is_no_longer_pending_loses_the_whole_unit(bus: Bus) -> None:
    await bus.ensure_group(IN, GROUP)
    await written(bus, 2)
    first, second = await read(bus)
    await bus.commit([Unit(inputs=[first])])
    assert await bus.commit([Unit(inputs=[first, second], outputs=[Output(OUT, b"x")])]) == [Status.LOST]
    assert await data_of(bus) == []
    assert (await bus.stream_infos([IN]))[IN].groups[GROUP].pending == 1


async def test_an_input_claimed_by_another_consumer_is_lost_to_the_first(bus: Bus) -> None:
    await bus.ensure_group(IN, GROUP)
    await written(bus, 1)
    mine = await read(bus, "slow")
    theirs = await bus.claim(IN, GROUP, "fast", min_idle_ms=0, count=10)
    assert [entry.data for entry in theirs] == [b"0"]
    assert await bus.commit([Unit(inputs=mine, outputs=[Output(OUT, b"slow")])]) == [Status.LOST]
    assert await bus.commit([Unit(inputs=theirs, outputs=[Output(OUT, b"fast")])]) == [Status.OK]
    assert await data_of(bus) == [b"fast"]


async def test_a_state_that_moved_on_refuses_the_unit(bus: Bus) -> None:
    key = "{p00}:state:x"
    assert await bus.commit([Unit(states=[StateWrite(key, 0, b"one", {"unsettled": 2})])]) == [Status.OK]
    assert await bus.commit([Unit(states=[StateWrite(key, 0, b"zombie")], outputs=[Output(OUT, b"z")])]) == [
        Status.STALE
    ]
    state = await bus.state(key)
    assert (state.version, state.data, state.fields) == (1, b"one", {"unsettled": "2"})
    assert await data_of(bus) == []


async def test_a_repeated_output_is_refused_and_its_input_acknowledged(bus: Bus) -> None:
    await bus.ensure_group(IN, GROUP)
    await written(bus, 2)
    first, second = await read(bus)
    mark = Watermark(OUT, "agent", "BTCUSDT", 1000)
    assert await bus.commit([Unit(inputs=[first], watermarks=[mark], outputs=[Output(OUT, b"x")])]) == [Status.OK]
    assert await bus.commit([Unit(inputs=[second], watermarks=[mark], outputs=[Output(OUT, b"x")])]) == [Status.DUP]
    assert await data_of(bus) == [b"x"]
    assert (await bus.stream_infos([IN]))[IN].groups[GROUP].pending == 0


async def test_units_of_one_commit_stand_alone(bus: Bus) -> None:
    key = "{p00}:state:y"
    statuses = await bus.commit(
        [
            Unit(states=[StateWrite(key, 7, b"never")], outputs=[Output(OUT, b"no")]),
            Unit(writes=[("HINCRBY", "{p00}:counters:x", "total", 2)], outputs=[Output(OUT, b"yes")]),
        ]
    )
    assert statuses == [Status.STALE, Status.OK]
    assert await data_of(bus) == [b"yes"]
    assert await bus.counters("{p00}:counters:x") == {"total": 2}


async def test_inputs_of_another_slot_are_acknowledged_after_the_target_was_written(bus: Bus) -> None:
    await bus.ensure_group(IN, GROUP)
    await written(bus, 1)
    entries = await read(bus)
    unit = Unit(
        inputs=entries,
        states=[StateWrite("{paper}:state:g", 0, b"s")],
        watermarks=[Watermark("{paper}:allocations", "g", "BTCUSDT", 5)],
        outputs=[Output("{paper}:allocations", b"approved")],
    )
    assert await bus.commit([unit]) == [Status.OK]
    assert await data_of(bus, "{paper}:allocations") == [b"approved"]
    assert (await bus.stream_infos([IN]))[IN].groups[GROUP].pending == 0


async def test_a_unit_that_would_write_to_two_slots_is_refused(bus: Bus) -> None:
    with pytest.raises(ValueError, match="one slot"):
        await bus.commit([Unit(outputs=[Output("{p00}:a", b""), Output("{p01}:a", b"")])])


async def test_what_a_consumer_had_in_hand_is_handed_out_again_after_its_restart(bus: Bus) -> None:
    await bus.ensure_group(IN, GROUP)
    await written(bus, 3)
    first, *_ = await read(bus)
    await bus.commit([Unit(inputs=[first])])
    again, last_id = await bus.read_own_pending(IN, GROUP, "1", "0", 100)
    assert [entry.data for entry in again] == [b"1", b"2"]
    assert last_id == again[-1].entry_id
    assert await bus.read_own_pending(IN, GROUP, "1", last_id, 100) == ([], None)


async def test_committing_together_falls_back_to_each_alone(bus: Bus) -> None:
    await bus.ensure_group(IN, GROUP)
    await written(bus, 3)
    entries = await read(bus)
    await bus.commit([Unit(inputs=[entries[1]])])
    units = [Unit(inputs=[entry], outputs=[Output(OUT, entry.data)]) for entry in entries]
    assert await commit_together(bus, units) == [Status.OK, Status.LOST, Status.OK]
    assert await data_of(bus) == [b"0", b"2"]


async def test_a_repeat_among_units_committed_together_costs_only_itself(bus: Bus) -> None:
    await bus.ensure_group(IN, GROUP)
    await written(bus, 3)
    entries = await read(bus)
    bars = (1000, 1000, 2000)
    units = [
        Unit(inputs=[entry], watermarks=[Watermark(OUT, "agent", "BTCUSDT", bar)], outputs=[Output(OUT, entry.data)])
        for entry, bar in zip(entries, bars, strict=True)
    ]
    assert await commit_together(bus, units) == [Status.OK, Status.DUP, Status.OK]
    assert await data_of(bus) == [b"0", b"2"]
    assert (await bus.stream_infos([IN]))[IN].groups[GROUP].pending == 0


async def test_vectors_come_oldest_first_up_to_the_asked_time(bus: Bus) -> None:
    key = "{p00}:window:BTCUSDT:1h"
    writes = [("ZADD", key, score, b"v%d" % score) for score in (10, 20, 30, 40)]
    await bus.commit([Unit(writes=[*writes, ("ZREMRANGEBYRANK", key, 0, -4)])])
    assert await bus.vectors([(key, 30, 2), (key, 99, 9)]) == [[b"v20", b"v30"], [b"v20", b"v30", b"v40"]]


async def test_trimming_keeps_what_a_group_still_needs(bus: Bus) -> None:
    await bus.ensure_group(IN, GROUP)
    await written(bus, 5)
    entries = await read(bus)
    await bus.commit([Unit(inputs=entries[:2])])
    assert await bus.trim(IN, [GROUP, "missing"], keep=0) is None
    assert await bus.trim(IN, [GROUP], keep=4) == 1
    assert await bus.trim(IN, [GROUP], keep=1) == 1
    assert (await bus.stream_infos([IN]))[IN].length == 3


async def test_lag_and_pending_are_told_per_group(bus: Bus) -> None:
    await bus.ensure_group(IN, GROUP)
    await written(bus, 3)
    await bus.read([IN], GROUP, "1", count=2, block_ms=10)
    info = (await bus.stream_infos([IN]))[IN].groups[GROUP]
    assert (info.pending, info.lag) == (2, 1)


async def test_tail_waits_for_new_entries_without_a_group(bus: Bus) -> None:
    await written(bus, 1)
    position = (await bus.newest(IN, 1))[0].entry_id
    waiting = asyncio.create_task(bus.tail({IN: position}, count=10, block_ms=2000))
    await asyncio.sleep(0.05)
    await bus.append(IN, b"news")
    assert [entry.data for entry in await waiting] == [b"news"]
    newest = (await bus.newest(IN, 1))[0].entry_id
    assert await bus.tail({IN: newest}, count=10, block_ms=10) == []


async def test_an_absent_state_has_version_zero(bus: Bus) -> None:
    assert (await bus.state("{p00}:state:none")).version == 0
    assert (await bus.stream_infos(["{p00}:none"]))["{p00}:none"].last_id == "0-0"


async def test_calls_over_several_slots_answer_for_each_of_them(bus: Bus) -> None:
    streams = ["{p00}:in", "{p01}:in", "{p02}:in", "{paper}:in"]
    for number, stream in enumerate(streams):
        await written(bus, number + 1, stream)
    infos = await bus.stream_infos([*streams, "{p03}:absent"])
    assert [info.length for info in infos.values()] == [1, 2, 3, 4, 0]
    found = await bus.tail(dict.fromkeys(streams, "0-0"), count=100, block_ms=None)
    assert sorted(entry.stream for entry in found) == sorted(s for n, s in enumerate(streams) for _ in range(n + 1))
    windows = [f"{{p0{number}}}:window" for number in range(3)]
    await bus.commit([Unit(writes=[("ZADD", key, 5, key)]) for key in windows])
    assert await bus.vectors([(key, 9, 4) for key in windows]) == [[key.encode()] for key in windows]


async def test_a_tail_that_waits_is_of_one_slot(bus: Bus) -> None:
    with pytest.raises(ValueError, match="one slot"):
        await bus.tail({"{p00}:in": "0-0", "{p01}:in": "0-0"}, count=1, block_ms=10)
