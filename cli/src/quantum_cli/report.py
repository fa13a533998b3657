"""What a run came to, for people and as the summary file."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console

from quantum_cli.display import Tally
from quantum_cli.plan import RunPlan, ledger_url
from recorder_svc.summary import summarise


def write_summary(plan: RunPlan, tally: Tally, wall_s: float, path: Path | None, console: Console) -> None:
    """Count what the recorder archived, print the essentials, and write the JSON object when a path is given."""
    summary = {
        **summarise(plan.state_dir / "archive", ledger_url(plan)),
        "dead_letters": tally.dead_letters,
        "bars_per_s": round(tally.bars / tally.market_s, 2) if tally.market_s > 0 else 0.0,
        "wall_s": round(wall_s, 2),
    }
    memory = f" · fleet memory up to {tally.peak_pss_mb:.0f} MB (PSS)" if tally.peak_pss_mb else ""
    console.print(
        f"{summary['decisions']} decisions · {summary['approvals']} approvals · {summary['orders']} orders · "
        f"{summary['fills']} fills · {summary['closed_trades']} closed trades · "
        f"balance {summary['final_balance']} USDT\n"
        f"{tally.bars} symbol bars in {tally.market_s:.1f} s ({summary['bars_per_s']}/s){memory}\n"
        f"decisions {summary['decisions_digest']}\nledger    {summary['ledger_digest']}",
        soft_wrap=True,
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
