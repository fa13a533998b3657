"""Candle history through a real ccxt client from the paper venue, over loopback."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from starlette.responses import Response

from exchange_sim.app import create_app
from exchange_sim.settings import SimSettings
from quantum_common.candles import COLUMNS, Candles, read_candles, write_candles
from quantum_research.history import DAY_MS, DEFAULT_DAYS, HistoryError, download, make_exchange
from quantum_research.testing import HOUR_MS, START_MS, synthetic_candles

BARS = 6_000
GAP = slice(2_500, 2_507)
NOW_MS = START_MS + (BARS - 20) * HOUR_MS + HOUR_MS // 2


def market() -> Candles:
    whole = synthetic_candles(BARS, 3)
    kept = np.delete(np.arange(BARS), GAP)
    return Candles(*(getattr(whole, name)[kept] for name in COLUMNS))


class Stumbling:
    """A venue in front of which a gateway answers 503 to the first requests for candles."""

    def __init__(self, app: Any, failures: int) -> None:
        self._app, self._failures = app, failures

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._failures and scope["type"] == "http" and scope["path"].endswith("/klines"):
            self._failures -= 1
            await Response("overloaded", 503)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


@contextmanager
def venue(folder: Path, failures: int = 0) -> Iterator[str]:
    write_candles(folder, "test", "BTCUSDT", "1h", market())
    settings = SimSettings(
        sim_data_dir=folder,
        sim_candle_venue="test",
        symbols=("BTCUSDT",),
        timeframe="1h",
        state_dir=folder,
        sim_start_ms=START_MS,
    )
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(Stumbling(create_app(settings), failures), log_level="warning", lifespan="off")
    )
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        httpx.post(f"{url}/sim/advance", json={"to_ms": NOW_MS}, timeout=30).raise_for_status()
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with venue(tmp_path_factory.mktemp("venue")) as address:
        yield address


@pytest.fixture
def exchange(url: str) -> Any:
    client = make_exchange("binanceusdm", url)
    client.enableRateLimit = False
    yield client
    client.session.close()


def stored(folder: Path) -> Candles:
    return read_candles(folder, "binanceusdm", "BTCUSDT", "1h")


def check_complete(folder: Path, from_ms: int = START_MS) -> None:
    expected = market().between(from_ms, NOW_MS - HOUR_MS)
    for name in COLUMNS:
        assert np.array_equal(getattr(stored(folder), name), getattr(expected, name)), name


def test_every_closed_bar_arrives_over_many_pages_and_the_gap_is_reported(exchange: Any, tmp_path: Path) -> None:
    shares: list[float] = []
    done = download(exchange, tmp_path, "BTCUSDT", "1h", from_ms=START_MS, to_ms=NOW_MS, progress=shares.append)
    check_complete(tmp_path)
    assert stored(tmp_path).ts[-1] == NOW_MS - HOUR_MS // 2 - HOUR_MS  # the one in progress is not there
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert done.gaps == ((START_MS + GAP.start * HOUR_MS, START_MS + GAP.stop * HOUR_MS),)
    assert (done.bars, done.new_bars, done.refused_bars) == (len(stored(tmp_path)), done.bars, 0)


def test_a_later_download_asks_only_for_what_is_newer(exchange: Any, tmp_path: Path) -> None:
    download(exchange, tmp_path, "BTCUSDT", "1h", from_ms=START_MS, to_ms=NOW_MS - 500 * HOUR_MS)
    changed = replace(stored(tmp_path), volume=stored(tmp_path).volume * 0 + 7)
    write_candles(tmp_path, "binanceusdm", "BTCUSDT", "1h", changed)
    done = download(exchange, tmp_path, "BTCUSDT", "1h", from_ms=None, to_ms=NOW_MS)
    assert done.new_bars == 500
    assert (stored(tmp_path).volume[:-500] == 7).all()
    assert (stored(tmp_path).volume[-500:] != 7).all()


def test_what_is_older_than_the_file_is_filled_in(exchange: Any, tmp_path: Path) -> None:
    middle = START_MS + 3_000 * HOUR_MS
    download(exchange, tmp_path, "BTCUSDT", "1h", from_ms=middle, to_ms=middle + 100 * HOUR_MS)
    download(exchange, tmp_path, "BTCUSDT", "1h", from_ms=START_MS, to_ms=NOW_MS)
    check_complete(tmp_path)


def test_without_a_start_the_first_download_goes_the_default_days_back(exchange: Any, tmp_path: Path) -> None:
    end_ms = START_MS + DEFAULT_DAYS["1h"] * DAY_MS + 40 * HOUR_MS
    download(exchange, tmp_path, "BTCUSDT", "1h", from_ms=None, to_ms=end_ms)
    assert stored(tmp_path).ts[0] == START_MS + 40 * HOUR_MS


def test_a_download_that_was_killed_goes_on(url: str, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from quantum_research import history\n"
        "history.PAGES_PER_SAVE = 1\n"
        "exchange = history.make_exchange('binanceusdm', sys.argv[1])\n"
        "exchange.feature_value = lambda *_: 100; exchange.rateLimit = 100\n"
        "start, end = int(sys.argv[3]), int(sys.argv[4])\n"
        "history.download(exchange, Path(sys.argv[2]), 'BTCUSDT', '1h', from_ms=start, to_ms=end)"
    )
    arguments = [sys.executable, "-c", program, url, str(tmp_path), str(START_MS), str(NOW_MS)]
    killed = subprocess.Popen(arguments)
    deadline_s = time.monotonic() + 60
    while not list(tmp_path.glob("*.parquet")) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    part = len(stored(tmp_path))
    assert 0 < part < len(market())
    client = make_exchange("binanceusdm", url)
    done = download(client, tmp_path, "BTCUSDT", "1h", from_ms=START_MS, to_ms=NOW_MS)
    client.session.close()
    assert done.bars - done.new_bars == part
    check_complete(tmp_path)


def test_what_has_arrived_is_kept_when_the_venue_goes_away(tmp_path: Path) -> None:
    folder = tmp_path / "venue"
    with venue(folder) as address:
        client = make_exchange("binanceusdm", address)
        client.options["maxRetriesOnFailure"] = 0

        def leave(_: float) -> None:
            client.urls["api"] = {name: "http://127.0.0.1:9" for name in client.urls["api"]}

        with pytest.raises(HistoryError, match=r"does not answer .*what has arrived is kept"):
            download(client, tmp_path, "BTCUSDT", "1h", from_ms=START_MS, to_ms=NOW_MS, progress=leave)
    client.session.close()
    assert len(stored(tmp_path)) > 0


@pytest.mark.parametrize(("failures", "arrives"), [(3, True), (99, False)])
def test_a_venue_that_stumbles_is_asked_again_but_not_for_ever(failures: int, arrives: bool, tmp_path: Path) -> None:
    with venue(tmp_path / "venue", failures) as address:
        client = make_exchange("binanceusdm", address)
        client.options["maxRetriesOnFailureDelay"] = 1
        if arrives:
            download(client, tmp_path, "BTCUSDT", "1h", from_ms=START_MS, to_ms=NOW_MS)
            check_complete(tmp_path)
        else:
            with pytest.raises(HistoryError, match="ExchangeNotAvailable"):
                download(client, tmp_path, "BTCUSDT", "1h", from_ms=START_MS, to_ms=NOW_MS)
        client.session.close()


def test_what_the_venue_does_not_know_is_named(exchange: Any, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="'nowhere' is none that ccxt knows"):
        make_exchange("nowhere")
    with pytest.raises(HistoryError, match="binanceusdm has no market NOPEUSDT"):
        download(exchange, tmp_path, "NOPEUSDT", "1h", from_ms=None, to_ms=NOW_MS)
    exchange.timeframes = {"1m": "1m"}
    with pytest.raises(HistoryError, match="binanceusdm has no candles of 1h; it has 1m"):
        download(exchange, tmp_path, "BTCUSDT", "1h", from_ms=None, to_ms=NOW_MS)
