"""Poison never stalls the entries behind it, and only failures alone count."""

from collections.abc import Sequence

import msgspec
import pytest

from quantum_common.bus import Bus, Consumer, Output, Received, Unit, run_consumer
from quantum_common.contracts import FundingPaid, Look, Producer, dead, encode, envelope

IN, OUT = "{ctl}:control", "{ctl}:out"
PRODUCER = Producer("test", "1", "0")


def event(number: int) -> bytes:
    return encode(envelope(Look("clock", number), producer=PRODUCER, produced_at_ms=0, natural_key=str(number)))


async def started(bus: Bus) -> Consumer:
    consumer = Consumer(bus, [IN], "worker", "1")
    await consumer.start()
    return consumer


async def test_f04_an_unknown_shape_goes_to_the_dead_letter_stream_and_the_rest_goes_on(bus: Bus) -> None:
    consumer = await started(bus)
    for data in (b"not json", b'{"kind":"Nonsense"}', event(1)):
        await bus.append(IN, data)
    received = await consumer.read(50)
    assert [item.event.payload for item in received] == [Look("clock", 1)]
    assert len(await bus.newest(dead(IN), 10)) == 2
    assert (await bus.stream_infos([IN]))[IN].groups["worker"].pending == 1


@pytest.mark.parametrize("poison", [0, 1, 2])
async def test_f06_a_poison_event_is_set_aside_and_its_neighbours_are_handled(bus: Bus, poison: int) -> None:
    consumer = await started(bus)
    for number in range(3):
        await bus.append(IN, event(number))

    async def handler(batch: list[Received]) -> None:
        if any(item.event.payload.market_ts_ms == poison for item in batch):
            raise ValueError("poison")
        outputs = [Output(OUT, encode(item.event)) for item in batch]
        await bus.commit([Unit(inputs=[item.entry for item in batch], outputs=outputs)])

    await consumer.handle(await consumer.read(50), handler)
    assert len(await bus.newest(OUT, 10)) == 2
    letters = await bus.newest(dead(IN), 10)
    assert len(letters) == 1
    assert b"ValueError: poison" in letters[0].data
    assert (await bus.stream_infos([IN]))[IN].groups["worker"].pending == 0


async def test_f06_an_event_of_another_family_is_not_taken_for_one_of_this_stream(bus: Bus) -> None:
    consumer = await started(bus)
    await bus.append(IN, encode(envelope(FundingPaid(amount=1, market_ts_ms=1), producer=PRODUCER, produced_at_ms=0)))
    assert await consumer.read(50) == []
    assert len(await bus.newest(dead(IN), 10)) == 1


FUTURE = ("bar_ts_ms", 4_000_003_200_000)


@pytest.mark.parametrize(("name", "value"), [("bar_ts_ms", 10**20), ("bar_ts_ms", -1), FUTURE, ("timeframe", "7m")])
async def test_f04_an_impossible_bar_is_refused_at_the_door(bus: Bus, name: str, value: object) -> None:
    consumer = await started(bus)
    await bus.append(IN, msgspec.json.encode(msgspec.json.decode(event(1)) | {name: value}))
    assert await consumer.read(50) == []
    assert name.encode() in (await bus.newest(dead(IN), 1))[0].data


async def test_more_leftovers_than_one_commit_takes_come_in_pages(bus: Bus) -> None:
    consumer = await started(bus)
    for number in range(700):
        await bus.append(IN, event(number))
    for _ in range(3):
        await consumer.read(50)
    sizes: list[int] = []

    async def handler(batch: Sequence[Received]) -> None:
        sizes.append(len(batch))
        await bus.commit([Unit(inputs=[item.entry for item in batch])])

    again = Consumer(bus, [IN], "worker", "1")
    await run_consumer(again, handler, stopping=lambda: sum(sizes) >= 700, beat=lambda: None, block_ms=50)
    assert max(sizes) <= 256
    assert (await bus.stream_infos([IN]))[IN].groups["worker"].pending == 0


async def test_the_loop_hands_out_leftovers_before_new_entries(bus: Bus) -> None:
    consumer = await started(bus)
    await bus.append(IN, event(1))
    await consumer.read(50)
    await bus.append(IN, event(2))
    seen: list[int] = []

    async def handler(batch: list[Received]) -> None:
        seen.extend(item.event.payload.market_ts_ms for item in batch)

    again = Consumer(bus, [IN], "worker", "1")
    await run_consumer(again, handler, stopping=lambda: len(seen) >= 2, beat=lambda: None, block_ms=50)
    assert seen == [1, 2]
