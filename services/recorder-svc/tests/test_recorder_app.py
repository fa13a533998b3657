"""The recorder on the bus: what is acknowledged is written, and what is written twice is read once."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from quantum_common.bus import Bus, BusUnavailable, Consumer, DeadLetter, MemoryBus, Received, RedisBus, Unit
from quantum_common.contracts import (
    EXECUTIONS,
    FEATURES,
    PREDICTIONS,
    AccountUpdated,
    Candle,
    Envelope,
    FeaturesComputed,
    FundingPaid,
    OrderFilled,
    PredictionAbstained,
    Producer,
    encode,
    envelope,
)
from quantum_common.domain.signal import OrderSide, Role
from quantum_common.service import build_app
from quantum_common.testing import running_server
from recorder_svc.app import Recorder, build
from recorder_svc.archive import days, read_day
from recorder_svc.settings import Settings
from recorder_svc.trimming import Trimmer

DAY = 86_400_000
BAR = 19_700 * DAY
BTC = "BTCUSDT"


class Event(msgspec.Struct, frozen=True):
    event_id: str
    kind: str


class Fleet:
    def __init__(self, bus: Bus, state_dir: Path) -> None:
        self.bus, self.settings = bus, Settings(state_dir=state_dir)
        self.recorder = Recorder(self.settings, bus)
        self.consumer = Consumer(bus, self.settings.keys.subscribed("recorder-svc"), "recorder-svc", "1")

    async def turn(self, *, started: bool = True) -> None:
        if not started:
            await self.consumer.start()
        more = True
        while more:
            batch = await self.consumer.read(10)
            await self.consumer.handle(batch, self.recorder.handle)
            more = not started and batch != []

    async def publish(self, stream: Any, payload: msgspec.Struct, *, bar: int = BAR, key: str = "") -> None:
        event = envelope(
            payload,
            producer=Producer("test", "1", "0"),
            produced_at_ms=5 * DAY,
            symbol=BTC,
            timeframe="1h",
            bar_ts_ms=bar,
            natural_key=key,
        )
        await self.bus.append(self.settings.keys.stream(stream, BTC), encode(event))

    async def pending(self) -> int:
        infos = await self.bus.stream_infos(self.settings.keys.subscribed("recorder-svc"))
        return sum(info.groups["recorder-svc"].pending for info in infos.values())

    def archived(self, day: str, stream: str) -> list[str]:
        return [row.kind for row in read_day(self.settings.archive_dir / day, stream, Event)]


FEATURE = FeaturesComputed(Candle(1, 1, 1, 1, 1), (0.0,) * 18, 0.5, 0.0, "h", 0, 1)
FILL = OrderFilled(
    "c1", "d1", BAR, Role.ENTRY, "t", OrderSide.BUY, Decimal(1), Decimal(100), Decimal(0), Decimal(0), BAR, 0
)


async def test_entries_are_archived_by_day_and_stream_and_acknowledged(tmp_path: Path) -> None:
    fleet = Fleet(MemoryBus(), tmp_path)
    await fleet.turn(started=False)
    await fleet.publish(FEATURES, FEATURE)
    await fleet.publish(FEATURES, FEATURE, bar=BAR + DAY)
    await fleet.publish(PREDICTIONS, PredictionAbstained("xgb", "collapsed", ""))
    await fleet.publish(EXECUTIONS, FILL, key="t")
    await fleet.turn()
    assert fleet.archived("2023-12-09", "features") == ["FeaturesComputed"]
    assert fleet.archived("2023-12-10", "features") == ["FeaturesComputed"]
    assert fleet.archived("2023-12-09", "predictions") == ["PredictionAbstained"]
    assert fleet.archived("2023-12-09", "executions") == ["OrderFilled"]
    assert len(fleet.recorder.ledger.newest("fills", 10)) == 1
    assert await fleet.pending() == 0
    await fleet.recorder.close()


async def test_an_event_of_no_bar_is_filed_under_its_market_day(tmp_path: Path) -> None:
    fleet = Fleet(MemoryBus(), tmp_path)
    await fleet.publish(EXECUTIONS, FundingPaid(Decimal(1), BAR), bar=0, key="1")
    await fleet.publish(EXECUTIONS, AccountUpdated("start", Decimal(1), Decimal(1), (), BAR, 0, 1, {}), bar=0, key="2")
    await fleet.turn()
    assert fleet.archived("2023-12-09", "executions") == ["FundingPaid", "AccountUpdated"]
    await fleet.recorder.close()


async def test_what_comes_again_after_a_crash_is_read_once(tmp_path: Path) -> None:
    fleet = Fleet(MemoryBus(), tmp_path)
    await fleet.publish(FEATURES, FEATURE)
    await fleet.publish(EXECUTIONS, FILL, key="t")
    batch = await fleet.consumer.read(10)
    fleet.recorder._write(batch)  # and the process ends before the acknowledgement
    await fleet.recorder.close()
    again = Fleet(fleet.bus, tmp_path)
    await again.turn(started=False)
    assert await again.pending() == 0
    file = again.settings.archive_dir / "2023-12-09" / "features.jsonl"
    assert len(file.read_bytes().splitlines()) == 2
    assert again.archived("2023-12-09", "features") == ["FeaturesComputed"]
    assert len(again.recorder.ledger.newest("fills", 10)) == 1
    await again.recorder.close()


async def test_a_line_cut_short_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    fleet = Fleet(MemoryBus(), tmp_path)
    file = fleet.settings.archive_dir / "2023-12-09" / "features.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b'{"event_id":"x","kind":"Feat')
    await fleet.publish(FEATURES, FEATURE)
    await fleet.turn()
    assert fleet.archived("2023-12-09", "features") == ["FeaturesComputed"]
    await fleet.recorder.close()


async def test_while_the_disk_refuses_nothing_is_acknowledged_or_condemned(tmp_path: Path) -> None:
    fleet = Fleet(MemoryBus(), tmp_path)
    await fleet.publish(FEATURES, FEATURE)
    obstacle = fleet.settings.archive_dir / "2023-12-09" / "features.jsonl"
    obstacle.mkdir(parents=True)
    with pytest.raises(BusUnavailable):
        await fleet.turn()
    assert await fleet.pending() == 1
    obstacle.rmdir()
    await fleet.turn(started=False)
    assert await fleet.pending() == 0
    assert fleet.archived("2023-12-09", "features") == ["FeaturesComputed"]
    await fleet.recorder.close()


@pytest.mark.parametrize("bar", [10**17, 10**20])
async def test_f06_an_event_of_an_impossible_time_is_set_aside_and_its_neighbours_are_written(
    tmp_path: Path, bar: int
) -> None:
    fleet = Fleet(MemoryBus(), tmp_path)
    await fleet.turn(started=False)
    await fleet.publish(FEATURES, FEATURE, bar=bar)
    await fleet.publish(FEATURES, FEATURE)
    await fleet.consumer.handle(await received(fleet), fleet.recorder.handle)
    assert fleet.archived("2023-12-09", "features") == ["FeaturesComputed"]
    assert await fleet.pending() == 0
    letters = await fleet.bus.newest(f"{fleet.settings.keys.stream(FEATURES, BTC)}:dead", 10)
    reasons = [msgspec.json.decode(entry.data, type=DeadLetter).reason for entry in letters]
    assert [reason.partition(":")[0] for reason in reasons] == ["ValueError"]
    await fleet.recorder.close()


async def received(fleet: Fleet) -> list[Received]:
    """What is on the features stream, decoded without the codec's own guards."""
    stream = fleet.settings.keys.stream(FEATURES, BTC)
    entries = await fleet.bus.read([stream], "recorder-svc", "1", count=10, block_ms=1)
    return [Received(entry, msgspec.json.decode(entry.data, type=Envelope[FeaturesComputed])) for entry in entries]


async def test_f22_only_so_many_files_stay_open(tmp_path: Path) -> None:
    fleet = Fleet(MemoryBus(), tmp_path)
    for number in range(50):
        await fleet.publish(FEATURES, FEATURE, bar=BAR + number * DAY)
    await fleet.turn()
    assert len(days(fleet.settings.archive_dir)) == 50
    assert len(fleet.recorder.archive._open) <= 32
    await fleet.recorder.close()


async def test_on_a_real_server_a_batch_is_written_and_acknowledged(tmp_path: Path) -> None:
    with running_server(tmp_path) as url:
        bus = RedisBus.connect(url)
        fleet = Fleet(bus, tmp_path / "state")
        await fleet.turn(started=False)
        for number in range(600):
            await fleet.publish(EXECUTIONS, FILL, key=str(number))
        while await fleet.pending() or len(fleet.recorder.ledger.newest("fills", 1000)) < 600:
            await fleet.turn()
        await fleet.recorder.close()
        await fleet.consumer.stop()
        await bus.close()


async def test_the_api_shows_the_newest_rows_of_a_symbol(tmp_path: Path) -> None:
    fleet = Fleet(MemoryBus(), tmp_path)
    await fleet.publish(EXECUTIONS, FILL, key="t")
    await fleet.turn()
    service = build(fleet.settings, fleet.bus)
    transport = httpx.ASGITransport(build_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://recorder") as client:
        [row] = (await client.get("/api/ledger/fills", params={"symbol": "btcusdt"})).json()
        assert (row["symbol"], row["quantity"], row["price"]) == (BTC, "1", "100")
        assert (await client.get("/api/ledger/fills", params={"symbol": "ETHUSDT"})).json() == []
        assert (await client.get("/api/ledger/trades")).json() == []
        assert [row["status"] for row in (await client.get("/api/ledger/orders")).json()] == ["filled"]
        assert (await client.get("/api/ledger/fills", params={"limit": 0})).status_code == 422
    for close in service.closing:
        await close()
    await fleet.recorder.close()


async def test_f22_streams_are_trimmed_up_to_what_every_group_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recorder_svc.trimming.KEPT_ENTRIES", 1)
    fleet = Fleet(MemoryBus(), tmp_path)
    stream = fleet.settings.keys.stream(PREDICTIONS, BTC)
    meta = Consumer(fleet.bus, [stream], "meta-svc", "1")
    await meta.start()
    await fleet.turn(started=False)
    for number in range(4):
        await fleet.publish(PREDICTIONS, PredictionAbstained("xgb", "model_not_loaded", ""), key=str(number))
    await fleet.turn()
    await trim_once(fleet)
    assert (await fleet.bus.stream_infos([stream]))[stream].length == 4, "meta-svc has not read them"
    held = await meta.read(10)
    await fleet.bus.commit([Unit(inputs=[received.entry for received in held[:2]])])
    await trim_once(fleet)
    assert (await fleet.bus.stream_infos([stream]))[stream].length == 2, "what meta-svc holds must stay"
    await fleet.recorder.close()


async def trim_once(fleet: Fleet) -> None:
    trimmer = Trimmer(fleet.settings, fleet.bus)
    await trimmer.trim()
    await trimmer.close()
