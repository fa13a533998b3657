"""Watching and trimming on a real server: what holds a stream back, and that it shrinks when nothing does."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client import REGISTRY as METRICS

from quantum_common.bus import DeadLetter, Entry, MemoryBus, RedisBus, Unit
from quantum_common.contracts import PREDICTIONS
from quantum_common.contracts.streams import dead
from quantum_common.service import build_app
from quantum_common.service.clock import wall_ms
from quantum_common.testing import running_server
from recorder_svc.app import build
from recorder_svc.settings import Settings
from recorder_svc.trimming import Trimmer, letter_line
from recorder_svc.watch import Watch

STREAM = "{p00}:predictions"
KEPT = 50


class House:
    """The predictions stream with its two groups, a watch whose clock the test moves, and a trimmer."""

    def __init__(self, bus: Any, folder: Path) -> None:
        self.bus, self.settings, self.ahead_s = bus, Settings(state_dir=folder, clock="replay"), 0.0
        self.watch = Watch(self.settings, bus, clock=lambda: wall_ms() + int(self.ahead_s * 1000))
        self.trimmer = Trimmer(self.settings, bus)

    async def write(self, count: int, stream: str = STREAM, data: bytes = b"x" * 100) -> None:
        for _ in range(count):
            await self.bus.append(stream, data)

    async def read(self, group: str, consumer: str = "1", count: int = 1000) -> list[Entry]:
        return await self.bus.read([STREAM], group, consumer, count=count, block_ms=1)

    async def finish(self, *groups: str) -> None:
        """The groups read and acknowledge all there is."""
        for group in groups:
            await self.bus.ensure_group(STREAM, group)
            while entries := await self.read(group, count=256):
                await self.bus.commit([Unit(inputs=entries)])

    async def length(self, stream: str = STREAM) -> int:
        return (await self.bus.stream_infos([stream]))[stream].length

    async def alarms(self, *ahead_s: float) -> list[tuple[str, str]]:
        """Those on this stream, after looks that far ahead in time."""
        for self.ahead_s in ahead_s or (0.0,):
            await self.watch.look()
        return [(row["kind"], row["group"]) for row in self.watch.document()["alarms"] if row["stream"] == STREAM]


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr("recorder_svc.trimming.KEPT_ENTRIES", KEPT)
    monkeypatch.setattr("recorder_svc.streams.KEPT_ENTRIES", KEPT)
    with running_server(tmp_path / "server") as url:
        bus = RedisBus.connect(url)
        (tmp_path / "state").mkdir()
        await bus.lease("{ctl}:lease:test", "test", 1)  # loads the functions: a full server takes no new ones
        yield House(bus, tmp_path / "state")
        await bus.close()


async def test_f22_without_a_registered_group_nothing_is_dropped_and_the_alarm_names_it(house: House) -> None:
    await house.write(150)
    await house.finish("recorder-svc")
    await house.trimmer.trim()
    assert await house.length() == 150
    assert await house.alarms(0, 31) == [("group_missing", "meta-svc")]
    assert await house.bus.trim(STREAM, ["recorder-svc", "meta-svc"], KEPT) is None


async def test_f03_f22_what_a_dead_consumer_holds_stays_until_another_one_has_done_it(house: House) -> None:
    await house.write(10)
    await house.bus.ensure_group(STREAM, "meta-svc")
    await house.read("meta-svc", "killed", count=5)
    await house.write(140)
    await house.finish("recorder-svc", "meta-svc")
    await house.trimmer.trim()
    assert await house.length() == 150
    assert await house.alarms(61) == [("trim_blocked", "meta-svc")]
    entries = await house.bus.claim(STREAM, "meta-svc", "2", min_idle_ms=0, count=10)
    await house.bus.commit([Unit(inputs=entries)])
    await house.trimmer.trim()
    assert await house.length() == KEPT
    assert await house.alarms(62) == []


async def test_f02_a_group_that_nobody_reads_any_more_shows_by_what_it_has_not_been_given(house: House) -> None:
    await house.write(3)
    await house.finish("recorder-svc", "meta-svc")
    assert await house.alarms(0) == []
    await house.write(4)
    await house.finish("recorder-svc")
    assert await house.alarms(0) == []
    assert await house.alarms(61) == [("undelivered", "meta-svc")]
    [row] = [row for row in house.watch.document()["streams"] if row["stream"] == STREAM]
    meta = row["groups"][0]
    assert (meta["group"], meta["lag"], meta["missing"]) == ("meta-svc", 4, False)
    assert 60 < meta["undelivered_age_s"] < 70
    await house.finish("meta-svc")
    assert await house.alarms(62) == []


async def test_f02_a_lag_that_the_server_cannot_tell_is_an_alarm(house: House) -> None:
    await house.write(9)
    await house.finish("recorder-svc")
    await house.bus.ensure_group(STREAM, "meta-svc")
    fifth = (await house.bus.newest(STREAM, 5))[-1].entry_id
    await house.bus.commit([Unit(writes=[("XDEL", STREAM, fifth)])])
    await house.bus.commit([Unit(inputs=await house.read("meta-svc", count=2))])
    assert await house.alarms() == [("lag_unknown", "meta-svc")]
    labels = {"partition": "p00", "stream": "predictions", "group": "meta-svc"}
    assert METRICS.get_sample_value("quantum_recorder_group_lag_unknown", labels) == 1
    await house.finish("meta-svc")
    assert await house.alarms() == []
    assert METRICS.get_sample_value("quantum_recorder_group_lag", labels) == 0


async def test_f02_a_group_lost_while_it_is_trimmed_costs_nothing(house: House) -> None:
    await house.write(150)
    await house.finish("recorder-svc", "meta-svc")
    await house.bus._redis.xgroup_destroy(STREAM, "meta-svc")
    assert await house.bus.oldest_pending(STREAM, "meta-svc") is None
    await house.trimmer.trim()
    assert await house.length() == 150
    await house.finish("meta-svc")
    await house.trimmer.trim()
    assert await house.length() == KEPT


async def test_f22_a_full_server_is_drained_and_trimmed_and_then_takes_work_again(house: House) -> None:
    await house.write(3000, data=b"x" * 2000)
    await house.bus.ensure_group(STREAM, "recorder-svc")
    await house.bus.ensure_group(STREAM, "meta-svc")
    redis = house.bus._redis
    await redis.config_set("maxmemory", (await redis.info("memory"))["used_memory"] - 1_000_000)
    assert [row["kind"] for row in await document_after(house)] == ["memory"]
    await house.finish("recorder-svc", "meta-svc")
    await house.trimmer.trim()
    assert await house.length() == KEPT
    await house.write(1)
    assert [row["kind"] for row in await document_after(house)] == []


async def document_after(house: House) -> list[dict[str, Any]]:
    await house.watch.look()
    return [row for row in house.watch.document()["alarms"] if not row["stream"]]


async def test_the_api_tells_rows_and_alarms(tmp_path: Path) -> None:
    house = House(MemoryBus(), tmp_path)
    await house.write(2, dead(STREAM))
    service = build(house.settings, house.bus)
    watch = service.loops["watch"].__self__  # type: ignore[attr-defined]
    await watch.look()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(service)), base_url="http://x") as client:
        body = (await client.get("/api/streams")).json()
    assert [(row["kind"], row["stream"]) for row in body["alarms"]] == [("dead_letters", STREAM)]
    assert {row["stream"] for row in body["streams"]} >= {STREAM, "{p00}:features", "{paper}:executions"}
    assert body["problem"] is None
    for close in service.closing:
        await close()


def letter(number: int) -> bytes:
    return msgspec.json.encode(DeadLetter(STREAM, f"{number}-0", "meta-svc", 3, "KeyError", b"data"))


@pytest.mark.parametrize("full", [False, True])
async def test_f22_dead_letters_beyond_the_limit_are_in_the_archive_before_they_leave_the_bus(
    house: House, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    monkeypatch.setattr("recorder_svc.trimming.KEPT_LETTERS", 5)
    monkeypatch.setattr("recorder_svc.trimming.LETTERS_PER_UNIT", 2)
    for number in range(10):
        await house.bus.append(dead(STREAM), letter(number))
    ids = [entry.entry_id for entry in reversed(await house.bus.newest(dead(STREAM), 10))]
    obstacle = house.settings.archive_dir
    obstacle.write_text("no folder can be made here")
    await house.trimmer.trim()
    assert await house.length(dead(STREAM)) == 10, "the disk did not take them"
    obstacle.unlink()
    if full:
        await house.bus._redis.config_set("maxmemory", 1_000_000)
    await house.trimmer.trim()
    await house.trimmer.close()
    left = [entry.entry_id for entry in reversed(await house.bus.newest(dead(STREAM), 20))]
    assert left == ids[5:]
    [file] = house.settings.archive_dir.glob("*/dead-letters.jsonl")
    rows = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    assert [row["id"] for row in rows] == [f"p00:predictions:{entry_id}" for entry_id in ids[:5]]
    assert [row["letter"]["entry_id"] for row in rows] == [f"{number}-0" for number in range(5)]


@pytest.mark.parametrize("data", [b"\xff\n{", b"no json", b'{\n"reason": "x"}'])
def test_whatever_stands_among_the_dead_letters_is_one_line(data: bytes) -> None:
    line = letter_line(Entry(dead(STREAM), "1-0", data))
    assert line.count(b"\n") == 1
    assert msgspec.json.decode(line)["id"] == "p00:predictions:1-0"


def test_the_stream_under_test_is_the_registrys() -> None:
    assert Settings().keys.all_streams(PREDICTIONS) == [STREAM]
