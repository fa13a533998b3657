"""The verdict on a disturbed run beside the undisturbed one, the table, and the last line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from chaos.evidence import Evidence, Slot, Trade
from quantum_common.domain import AGENTS

SHOWN = 12
COLUMNS = (
    "kills",
    "pauses",
    "server kills",
    "redeploys",
    "cut connections",
    "half_open",
    "lost_replies",
    "busy",
    "slow_disk",
    "poison",
)
STREAM_OF = {"features": "features", "prediction": "predictions", "decision": "decisions", "verdict": "allocations"}


@dataclass
class Verdict:
    """Of one run. Empty lists and True everywhere: it is as if nothing had happened."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    pending_entries: int = 0
    dead: list[str] = field(default_factory=list)
    """Dead letters that no poison explains, or poison without its dead letter."""
    decisions_equal: bool = True
    ledger_equal: bool = True
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        bad = self.lost or self.doubled or self.pending or self.dead or self.problems
        return not bad and self.decisions_equal and self.ledger_equal

    def explained(self) -> list[str]:
        """One line per finding, the first ones of each kind."""
        named = {"lost": self.lost, "doubled": self.doubled, "pending": self.pending, "dead letter": self.dead}
        lines = [f"{name}: {row}" for name, rows in named.items() for row in rows[:SHOWN]]
        return [*self.problems[:SHOWN], *lines]


def judge(
    evidence: Evidence,
    bars: Collection[tuple[str, int]],
    summary: Mapping[str, Any],
    undisturbed: Mapping[str, Any],
    problems: Sequence[str] = (),
) -> Verdict:
    """`bars`: symbol and open time of every bar of the range."""
    wanted = set(_wanted(bars))
    verdict = Verdict(problems=list(problems))
    for slot in sorted(wanted):
        if not evidence.archived.get(slot):
            verdict.lost.append(f"{_named(slot)} is not in the archive")
        elif not evidence.on_bus[slot] and STREAM_OF[slot.what] not in evidence.trimmed:
            verdict.lost.append(f"{_named(slot)} is not on the bus")
    for slot in sorted({*evidence.archived, *evidence.on_bus}):
        copies = max(len(evidence.archived.get(slot, ())), evidence.on_bus[slot])
        if copies > 1 or slot not in wanted:
            verdict.doubled.append(f"{_named(slot)} stands there {copies} times")
    slots_doubled = {slot for slot, count in evidence.on_bus.items() if count > 1}
    if not slots_doubled:  # else the same events would count twice
        verdict.doubled += [f"event {name} stands there {n} times" for name, n in evidence.repeated_ids.items()]
    _judge_trades(evidence, verdict)
    verdict.doubled += [f"order {name} is at the venue more than once" for name in evidence.doubled_orders]
    verdict.pending = [f"{name}: {count}" for name, count in sorted(evidence.pending.items())]
    verdict.pending_entries = sum(evidence.pending.values())
    unexplained, missing = (
        evidence.letters - evidence.expected_letters,
        evidence.expected_letters - evidence.letters,
    )
    verdict.dead = [f"{' '.join(letter)} is unexplained" for letter in sorted(unexplained.elements())]
    verdict.dead += [f"{' '.join(letter)} is missing" for letter in sorted(missing.elements())]
    verdict.decisions_equal = summary["decisions_digest"] == undisturbed["decisions_digest"]
    verdict.ledger_equal = all(summary[name] == undisturbed[name] for name in ("ledger_digest", "final_balance"))
    return verdict


def _judge_trades(evidence: Evidence, verdict: Verdict) -> None:
    venue, ledger = evidence.venue_trades, evidence.ledger_trades
    verdict.lost += [f"{_trade(row)} of the venue is not in the ledger" for row in sorted(venue - ledger)]
    verdict.doubled += [f"{_trade(row)} in the ledger is not the venue's" for row in sorted(ledger - venue)]


def _wanted(bars: Collection[tuple[str, int]]) -> list[Slot]:
    found = []
    for symbol, ts in bars:
        found += [Slot(what, symbol, ts) for what in ("features", "decision", "verdict")]
        found += [Slot("prediction", symbol, ts, agent) for agent in AGENTS]
    return found


def _named(slot: Slot) -> str:
    return " ".join(part for part in (slot.what, slot.agent, slot.symbol, str(slot.bar_ts_ms)) if part)


def _trade(row: Trade) -> str:
    return f"trade {row.trade_id} of {row.symbol} ({row.quantity} at {row.price})"


def last_line(seed: int, inputs: int, kills: int, verdict: Verdict) -> str:
    """The line that scripts read."""
    return (
        f"chaos seed={seed} inputs={inputs} kills={kills} lost={len(verdict.lost)} doubled={len(verdict.doubled)} "
        f"pending={verdict.pending_entries} ledger={'equal' if verdict.ledger_equal else 'DIFFERS'}"
    )


def table(rows: Sequence[tuple[int, int, Mapping[str, int], float, Evidence, Verdict]]) -> Table:
    """One row per seed: (seed, inputs, what was injected, wall seconds, evidence, verdict)."""
    made = Table("seed", "inputs", *COLUMNS, "wall s", "lost", "doubled", "pending", "dead", "decisions", "ledger")
    for seed, inputs, counts, wall_s, evidence, verdict in rows:
        made.add_row(
            *(str(seed), str(inputs), *(str(counts.get(name, 0)) for name in COLUMNS), f"{wall_s:.0f}"),
            *(str(len(verdict.lost)), str(len(verdict.doubled)), str(verdict.pending_entries)),
            f"{evidence.letters.total()}/{evidence.expected_letters.total()}",
            *("equal" if same else "DIFFERS" for same in (verdict.decisions_equal, verdict.ledger_equal)),
        )
    return made
