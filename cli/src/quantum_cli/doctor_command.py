"""`quantum doctor`: is this machine, and what is configured on it, fit to run a fleet?"""

from __future__ import annotations

import asyncio
from collections import Counter

import typer
from rich.markup import escape

from quantum_cli import doctor as checks
from quantum_cli import doctor_remote as remote
from quantum_cli.doctor import Finding
from quantum_cli.fleet_commands import AsJson, StateDir
from quantum_cli.reach import Reach, find_fleet
from quantum_cli.terminal import console, failing_with_a_message, print_json, printable

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Check the machine and the configuration, with what to do about it. Exit code 1 when a check fails."""
    with failing_with_a_message():
        findings = [*checks.python(), *checks.threads(), *checks.names(), *checks.settings()]
        if all(finding.level != "fail" for finding in findings):  # with wrong settings no fleet can be named
            findings += asyncio.run(_of_the_fleet(find_fleet(state_dir)))
    if as_json:
        print_json(findings)
    else:
        _show(findings)
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


async def _of_the_fleet(reach: Reach) -> list[Finding]:
    ours = await remote.answering(reach)
    running = bool(ours)
    return [
        *checks.mode(),
        Finding("fleet", "ok", f"{reach.how}; {len(ours)} services answer"),
        *remote.ports(reach, ours),
        *await remote.server(reach, running),
        *await remote.clock(reach),
        *checks.disk(reach),
        *checks.memory(running),
        *checks.models(reach, running),
        *checks.secrets(reach),
    ]


def _show(findings: list[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark = f"[{COLOURS[finding.level]}]{finding.level:<4}[/]"
        console.print(f"{mark}  {finding.check:<{width}}  {escape(printable(finding.found))}", soft_wrap=True)
        if finding.fix:
            console.print(f"{'':<{width + 8}}→ {escape(printable(finding.fix))}", soft_wrap=True)
    counts = Counter(finding.level for finding in findings)
    console.print(f"{counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failed")
