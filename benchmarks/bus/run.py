"""The bus kit beside the raw client and FastStream: throughput and the latency of a four-hop chain.

Every measurement is a process of its own against a fresh server with the fleet's durability (every write fsynced). The
rounds are interleaved, so that a busy machine slows all of them down; ratios are the medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from workload import BATCH, EVENTS, ROOT, SOURCE

from quantum_common.testing import running_server

HERE, RESULTS = Path(__file__).parent, ROOT / "benchmarks/results"
FLOOR, PEER = "raw client, pipelined", "FastStream, batches"
NEEDED = {FLOOR: 0.7, PEER: 2.0}
"""What the kit's merged commit must reach of each."""

SLOW = {"per_message": 10}
"""Ways that get a fraction of the messages, so that a round does not wait for them."""

Figures = dict[str, float]


@dataclass(frozen=True)
class Client:
    """A program that does the work in some ways: name in the table → way."""

    python: Path
    script: Path
    throughput: dict[str, str]
    chain: str
    sources: Path = ROOT
    """Checkout whose kit is imported."""

    def measure(self, way: str, count: int) -> Figures:
        path = os.pathsep.join(map(str, (HERE, self.sources / "libs/common/src")))
        with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as url:
            ran = subprocess.run(
                [self.python, self.script, url, way, str(count)],
                env=os.environ | {"PYTHONPATH": path},
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        if ran.returncode:
            raise SystemExit(f"{self.script.parent.name} {way} failed:\n{ran.stderr}")
        figures: Figures = json.loads(ran.stdout)
        return figures


def clients(faststream: Path, against: Path | None) -> list[Client]:
    ours = Path(sys.executable)
    ways = {"merged": "merged", "merged, watermarks": "merged_with_watermarks", "unit a message": "unit_per_message"}

    def kit(name: str, sources: Path) -> Client:
        return Client(
            ours, HERE / "kit.py", {f"{name}, {row}": way for row, way in ways.items()}, f"{name}, chain", sources
        )

    made = [
        Client(ours, ROOT / "benchmarks/raw_client/client.py", {FLOOR: "pipelined"}, "raw client, chain"),
        kit("kit", ROOT),
    ]
    if against:
        made.append(kit("other kit", against.resolve()))
    if faststream.exists():
        ways_of_peer = {PEER: "in_batches", "FastStream, a message": "per_message"}
        made.append(Client(faststream, ROOT / "benchmarks/faststream/client.py", ways_of_peer, "FastStream, chain"))
    else:
        print(f"without FastStream: there is no {faststream}; `make bench` makes it", file=sys.stderr)
    return made


def measured(jobs: list[tuple[str, Client, str, int]], rounds: int) -> dict[str, list[Figures]]:
    """Name → one result per round. Each round starts at another client."""
    results: dict[str, list[Figures]] = {name: [] for name, *_ in jobs}
    for number in range(rounds):
        turn = number % len(jobs)
        for name, client, way, count in jobs[turn:] + jobs[:turn]:
            results[name].append(client.measure(way, count))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return results


def medians(rows: list[Figures]) -> Figures:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def ratio(rows: list[Figures], others: list[Figures], figure: str) -> float:
    return statistics.median(row[figure] / other[figure] for row, other in zip(rows, others, strict=True))


def table(results: dict[str, list[Figures]], figures: tuple[str, ...], references: dict[str, str]) -> list[str]:
    """Medians, the best round (of the first figure), then the ratio of the first figure to each reference's.

    `references` is heading → row; a best far from its median tells that the machine was disturbed.
    """
    references = {heading: name for heading, name in references.items() if name in results}
    lines = [f"{'':32}" + "".join(f"{heading:>16}" for heading in (*figures, "best", *references))]
    for name, rows in results.items():
        middle = medians(rows)
        first = [row[figures[0]] for row in rows]
        best = max(first) if figures[0] == "messages_per_s" else min(first)
        cells = [
            f"{value:,.0f}" if value > 100 else f"{value:.2f}"
            for value in (*(middle[figure] for figure in figures), best)
        ]
        cells += [f"{ratio(rows, results[other], figures[0]):.2f}" for other in references.values()]
        lines.append(f"{name:32}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def verdicts(results: dict[str, list[Figures]]) -> list[str]:
    lines = []
    for name, least in NEEDED.items():
        if name in results:
            reached = ratio(results["kit, merged"], results[name], "messages_per_s")
            lines.append(f"kit ÷ {name}: {reached:.2f}, at least {least}: {'met' if reached >= least else 'NOT MET'}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000, help="per throughput run")
    parser.add_argument("--chain", type=int, default=500, help="messages per latency run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout, whose kit runs in the same rounds")
    parser.add_argument("--faststream", type=Path, default=ROOT / ".venv-bench/bin/python", help="python that has it")
    asked = parser.parse_args()

    found = clients(asked.faststream, asked.against)
    throughput = [
        (name, client, way, asked.messages // SLOW.get(way, 1))
        for client in found
        for name, way in client.throughput.items()
    ]
    chain = [(client.chain, client, "chain", asked.chain) for client in found]
    results = measured([*throughput, *chain], asked.rounds)
    fast = {name: results[name] for name, *_ in throughput}
    slow = {name: results[name] for name, *_ in chain}

    print(f"\nconsume → emit → ack, {asked.messages:,} messages of {len(EVENTS[SOURCE])} bytes, batches of {BATCH}")
    print(
        "\n".join(
            table(fast, ("messages_per_s",), {"÷ raw": FLOOR, "÷ FastStream": PEER, "÷ other": "other kit, merged"})
        )
    )
    print("\nlatency of one message through four hops")
    print(
        "\n".join(
            table(
                slow,
                ("p50_ms", "p99_ms"),
                {"÷ raw": "raw client, chain", "÷ FastStream": "FastStream, chain", "÷ other": "other kit, chain"},
            )
        )
    )
    print("\n" + "\n".join(verdicts(results)))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("bus-%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps({"options": vars(asked), "rounds": results}, indent=1, default=str) + "\n")
    print(f"every round: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
