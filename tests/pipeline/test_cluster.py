"""The whole fleet on a cluster of three masters, in peace and (`make cluster`) with each of them killed.

Acknowledged writes are in the append-only file (`always`), so a master that comes back has them all.
"""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quantum_common.bus import RedisBus
from quantum_common.contracts import REGISTRY, Keys
from quantum_common.testing import RunningCluster, running_cluster

Run = Any  # a Replay or the Market of conftest.py, which importlib mode cannot import
BARS, PARTITIONS = 40, 4
KEYS = Keys(PARTITIONS)
SETTINGS = {"QT_MIN_CONFIDENCE_THRESHOLD": "0.40", "QT_PARTITIONS": str(PARTITIONS)}
DOWN_S = (1.0, 4.0, 1.0)
"""Within the node timeout, when the others go on, and beyond it, when the cluster stops serving."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path) as cluster:
        yield cluster


def replayed(market: Run, cluster: RunningCluster, name: str) -> Run:
    return market.replay(name, 120, BARS, 20_600, QT_REDIS_URL=cluster.url, **SETTINGS)


def archived(folder: Path) -> int:
    """Decisions in the archive of a run that is under way."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / "archive").glob("*/decisions.jsonl"))


def kill_masters_during(running: "Future[Run]", cluster: RunningCluster, folder: Path) -> int:
    """One after the other, in the middle of the bars; returns how many."""
    killed = 0
    for number, down_s in enumerate(DOWN_S):
        while archived(folder) < 15 + 35 * number:
            if running.done():
                return killed
            time.sleep(0.02)
        master = cluster.masters[number]
        master.kill()
        time.sleep(down_s)
        master.start()
        cluster.wait_until_ok()
        killed += 1
    return killed


async def nothing_is_pending_or_doubled(cluster: RunningCluster) -> None:
    bus = RedisBus.connect(cluster.url)
    streams = [name for spec in REGISTRY if spec.consumers for name in KEYS.all_streams(spec)]
    infos = await bus.stream_infos(streams)
    assert {(group.pending, group.lag) for info in infos.values() for group in info.groups.values()} == {(0, 0)}
    entries = await bus.tail(dict.fromkeys(streams, "0-0"), count=1_000_000, block_ms=None)
    ids = Counter(msgspec.json.decode(entry.data)["event_id"] for entry in entries)
    assert set(ids.values()) == {1}
    assert len({entry.stream for entry in entries}) > 5  # the symbols are in more than one partition
    await bus.close()


def assert_same(run: Run, reference: Run) -> None:
    for name in ("decisions_digest", "ledger_digest", "features", "decisions", "orders", "fills", "closed_trades"):
        assert run.summary[name] == reference.summary[name], name
    assert run.summary["dead_letters"] == 0


async def test_a_cluster_gives_what_one_server_gives(market: Run, other_dates: Run, cluster: RunningCluster) -> None:
    assert_same(replayed(market, cluster, "cluster"), other_dates)
    await nothing_is_pending_or_doubled(cluster)


@pytest.mark.cluster
async def test_masters_killed_and_restarted_lose_and_double_nothing(
    market: Run, other_dates: Run, cluster: RunningCluster
) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(replayed, market, cluster, "masters-killed")
        assert kill_masters_during(running, cluster, market.work_dir / "masters-killed") == len(DOWN_S)
        assert_same(running.result(), other_dates)
    await nothing_is_pending_or_doubled(cluster)
