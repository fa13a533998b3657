"""`quantum logs`: what the services of a local fleet have written, merged by time."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from quantum_cli.errors import UsageError
from quantum_cli.fleet import SERVICES
from quantum_cli.fleet_commands import StateDir
from quantum_cli.logs import Record, Tail, newest
from quantum_cli.running import STATE_FOLDERS, running_below
from quantum_cli.terminal import failing_with_a_message, printable
from quantum_common.service.logs import FILE_NAMES

LOOK_EVERY_S = 0.2
SERVER = "server"
NAMES = (*(member.name for member in SERVICES), SERVER)
WIDTH = max(map(len, NAMES))


def logs(
    services: Annotated[list[str] | None, typer.Argument(metavar="[SERVICE]...", help="Default: all")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many, the newest of all together")] = 100,
    grep: Annotated[str, typer.Option("--grep", help="Only what has this text (plain, not a pattern)")] = "",
    state_dir: StateDir = None,
) -> None:
    """Log lines of a fleet on this machine, the oldest first. A fleet that has ended can be read too."""
    with failing_with_a_message():
        chosen = _chosen(services or ())
        folder = _folder(state_dir, chosen if services else (), follow, lines, grep)
        files = {name: folder / f"{FILE_NAMES.get(name, name)}.log" for name in chosen}
        there = {name: path for name, path in files.items() if path.is_file()}
        if not there and not follow:
            raise UsageError(f"{folder} has no log of {', '.join(chosen)}")
    tails = [Tail(name, path) for name, path in files.items()] if follow else []
    ends = dict(zip(files, (tail.begins for tail in tails), strict=False))
    _print(newest(there, lines, grep, ends), several=len(files) > 1)
    try:
        while tails:
            found = [record for tail in tails for record in tail.look() if grep in record.text]
            _print(sorted(found, key=lambda record: record.at), several=len(files) > 1)
            time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        return


def _chosen(services: Sequence[str]) -> Sequence[str]:
    if unknown := [name for name in services if name not in NAMES]:
        raise UsageError(f"no service {', '.join(unknown)}: use some of {', '.join(NAMES)}")
    return services or NAMES


def _folder(state_dir: Path | None, services: Sequence[str], follow: bool, lines: int, grep: str) -> Path:
    """The named fleet's; else QT_LOG_DIR; else that of the only fleet that runs, or ran, below ./state."""
    if state_dir is not None:
        candidates = [state_dir / "logs"]
    elif named := os.environ.get("QT_LOG_DIR"):
        candidates = [Path(named)]
    else:
        running = [folder / "logs" for folder, _ in running_below(STATE_FOLDERS)]
        candidates = running or sorted(STATE_FOLDERS.glob("*/logs"))
    found = [folder for folder in candidates if folder.is_dir()]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(folder.parent) for folder in found)
        raise UsageError(f"several folders have logs ({names}): choose one with --state-dir DIR")
    looked = ", ".join(map(str, candidates)) or f"a folder below ./{STATE_FOLDERS}"
    raise UsageError(
        f"no log files in {looked}: name a local fleet with --state-dir DIR. "
        f"A fleet in containers: {_compose(services, follow, lines, grep)}"
    )


def _compose(services: Sequence[str], follow: bool, lines: int, grep: str) -> str:
    """The same question to Docker."""
    words = ["docker", "compose", "logs", *(["-f"] if follow else []), "--tail", str(lines), *services]
    return shlex.join(words) + (f" | grep -F {shlex.quote(grep)}" if grep else "")


def _print(records: Sequence[Record], several: bool) -> None:
    for record in records:
        for line in record.text.splitlines() or [""]:
            prefix = f"{record.service:<{WIDTH}} | " if several else ""
            typer.echo(prefix + printable(line))
