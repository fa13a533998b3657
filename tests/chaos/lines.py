"""`python -m chaos.lines`: the line of real services in one process, many symbols and bars, beside the run in peace.

Per seed and number of partitions: 200 faults at fail points (kills, pauses, cuts), the server killed and restarted, and
every connection cut again and again on its way through a proxy. The digest must be that of the quiet run, which must be
the same for every number of partitions. `--cluster`: on three masters, killed in turn; without the proxy, because a
cluster tells its own addresses. Exit codes: 0 equal, 1 not.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from chaos.failpoints import Faults
from chaos.kit_line import clean, quick_kit
from chaos.proxy import Link
from chaos.server import Cluster, Server, running, running_masters
from chaos.service_line import Result, play
from quantum_common.bus import RedisBus

PARTITIONS = (1, 4)
SERVER_KILLS, CUTS = 4, 10


async def quiet(server: Server | Cluster, options: argparse.Namespace, partitions: int) -> Result:
    def connect() -> RedisBus:
        return RedisBus.connect(server.url)

    async with clean(connect):
        return await play(
            connect, symbols=options.symbols, bars=options.bars, partitions=partitions, faults=Faults(0, 0.0, 0)
        )


async def disturbed(
    server: Server | Cluster, options: argparse.Namespace, partitions: int, seed: int
) -> tuple[Result, int]:
    """The result, and how many connections were cut."""
    link, url = None, server.url
    if isinstance(server, Server):
        link = Link(server.port)
        await link.start()
        url = f"redis://127.0.0.1:{link.port}/0"
    rng = random.Random(seed)
    bars = range(2, options.bars - 2)
    kills, cuts = set(rng.sample(bars, SERVER_KILLS)), set(rng.sample(bars, CUTS))

    async def disturb(bar: int) -> None:
        await asyncio.sleep(rng.uniform(0, 0.02))
        if bar in kills:
            await asyncio.to_thread(server.kill)
        if bar in cuts and link:
            link.cut()

    def connect() -> RedisBus:
        return RedisBus.connect(url)

    faults = Faults(seed, options.rate, options.faults)
    async with clean(lambda: RedisBus.connect(server.url)):
        result = await play(
            connect,
            symbols=options.symbols,
            bars=options.bars,
            partitions=partitions,
            faults=faults,
            on_bar=lambda bar: disturb(bar) if bar in kills | cuts else None,
        )
    if link is None:
        return result, 0
    await link.close()
    return result, link.cut_connections


async def run(options: argparse.Namespace, console: Console) -> bool:
    table = Table(
        "seed", "partitions", "inputs", "faults", "kills", "pauses", "cuts", "server kills", "cut connections",
        "wall s", "approvals", "fills", "lost", "doubled", "pending", "dead", "digest",
    )  # fmt: skip
    good = True
    start = running_masters if options.cluster else running
    with tempfile.TemporaryDirectory() as folder, start(Path(folder)) as server, quick_kit():
        reference = await quiet(server, options, 1)
        seeds = [int(part) for part in options.seeds.split(",")]
        for seed in (0, *seeds):
            for partitions in PARTITIONS[options.cluster :]:
                before = server.kills
                if seed:
                    result, cut_connections = await disturbed(server, options, partitions, seed)
                else:
                    result, cut_connections = await quiet(server, options, partitions), 0
                equal = result.digest == reference.digest
                good = good and equal and result.good
                table.add_row(
                    *(str(seed or "none"), str(partitions), str(options.symbols * options.bars)),
                    *_struck(result),
                    *(str(server.kills - before), str(cut_connections), f"{result.wall_s:.1f}"),
                    *map(str, (result.approvals, result.fills, result.lost, result.doubled, result.pending)),
                    *(str(result.dead), "equal" if equal else "DIFFERS"),
                )
    console.print(table)
    return good


def _struck(result: Result) -> list[str]:
    by_kind: Callable[[str], int] = lambda kind: sum(n for (_, k), n in result.faults.items() if k == kind)  # noqa: E731
    return [str(result.faults.total()), *(str(by_kind(kind)) for kind in ("kill", "pause", "cut"))]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.lines", description=__doc__)
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--bars", type=int, default=200)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.003, help="share of fail points that strike")
    parser.add_argument("--cluster", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    return 0 if uvloop.run(run(options, Console(highlight=False, width=200))) else 1


if __name__ == "__main__":
    sys.exit(main())
