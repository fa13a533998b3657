"""The conductor counts what stands on the streams, and is not ended by what does not belong there."""

import httpx
import pytest

from quantum_cli.conductor import PRODUCER, Conductor
from quantum_cli.errors import RunFailed
from quantum_common.bus import Entry, MemoryBus
from quantum_common.contracts import FEATURES, Candle, FeaturesComputed, Keys, encode, envelope

HOUR_MS = 3_600_000
STREAM = Keys().all_streams(FEATURES)[0]
FEATURES_COMPUTED = FeaturesComputed(Candle(1, 1, 1, 1, 1), (0.0,) * 18, 0.5, 0.0, "hash", 0, 1)


class OneStream:
    """As much of a Line as reading needs."""

    streams = (STREAM,)


def conductor(bus: MemoryBus, **options: object) -> Conductor:
    return Conductor(bus, OneStream(), httpx.AsyncClient(), Keys(), HOUR_MS, print, print, **options)  # type: ignore[arg-type]


def features(bar_ts_ms: int) -> bytes:
    return encode(
        envelope(
            FEATURES_COMPUTED,
            producer=PRODUCER,
            produced_at_ms=0,
            symbol="BTCUSDT",
            timeframe="1h",
            bar_ts_ms=bar_ts_ms,
        )
    )


async def seen(driver: Conductor, bar_ts_ms: int) -> str:
    """What the check of a bar for which one symbol published says of the features."""
    with pytest.raises(RunFailed) as failed:  # there are no decisions here
        await driver._check_bar(bar_ts_ms, 1)
    return str(failed.value)


async def test_f06_an_entry_that_is_no_event_does_not_end_the_run() -> None:
    bus = MemoryBus()
    for data in (b"", b"not json", features(HOUR_MS)):
        await bus.append(STREAM, data)
    driver = conductor(bus)
    await driver._rewind(3 * HOUR_MS)
    driver._positions[STREAM] = "0-0"
    assert "features" not in await seen(driver, HOUR_MS)


async def test_an_event_that_stands_twice_is_counted_twice_unless_told_to_leave_it_out() -> None:
    bus = MemoryBus()
    ids = [await bus.append(STREAM, features(HOUR_MS)) for _ in range(2)]

    def counted(entry: Entry) -> bool:
        return entry.entry_id != ids[1]

    strict, told = conductor(bus), conductor(bus, counted=counted)
    strict._positions[STREAM] = told._positions[STREAM] = "0-0"
    assert "2 features" in await seen(strict, HOUR_MS)
    assert "features" not in await seen(told, HOUR_MS)
