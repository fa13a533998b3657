"""Fleets that run on this machine: each says in its state folder where it can be reached, and who it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import psutil

from quantum_cli.errors import UsageError

FILE_NAME = "fleet.json"
RUN_FILE_NAME = "run.json"
STATE_FOLDERS = Path("state")
CLOCK_STEP_S = 60.0
"""A process that began later than its file was written is another one, unless the wall clock was set in between."""


class RunningFleet(msgspec.Struct, frozen=True):
    """What stands in `STATE_DIR/fleet.json` while the processes of a `quantum up` run."""

    pid: Annotated[int, msgspec.Meta(ge=1)]
    redis_url: str
    control_url: str
    partitions: Annotated[int, msgspec.Meta(ge=1)] = 1
    port_offset: int = 0


class Run(msgspec.Struct, frozen=True):
    """What stands in `STATE_DIR/run.json`, as far as other commands need it."""

    models: str
    symbols: tuple[str, ...] = ()
    timeframe: str = "1h"


@contextmanager
def announced(state_dir: Path, fleet: RunningFleet) -> Iterator[None]:
    """Have the file while the fleet runs. Written whole: a reader never sees half of it."""
    path = state_dir / FILE_NAME
    draft = path.with_suffix(".draft")
    draft.touch(mode=0o600)  # the URL may hold a password
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(fleet)) + b"\n")
    draft.chmod(0o600)
    draft.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def token_path(state_dir: Path) -> Path:
    """Where a run keeps its token for mutations."""
    return state_dir / "api-token"


def running_in(state_dir: Path) -> RunningFleet | None:
    """The fleet of a state folder. What a killed `quantum up` left behind counts as none."""
    path = state_dir / FILE_NAME
    try:
        written_at = path.stat().st_mtime
        fleet = msgspec.json.decode(path.read_bytes(), type=RunningFleet)
        process = psutil.Process(fleet.pid)
        reused = process.create_time() > written_at + CLOCK_STEP_S
        alive = not reused and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, msgspec.DecodeError, psutil.NoSuchProcess):
        return None
    return fleet if alive else None


def running_below(folder: Path) -> list[tuple[Path, RunningFleet]]:
    """State folders directly below this one from which a fleet runs, and who runs there."""
    folders = sorted(path.parent for path in folder.glob(f"*/{FILE_NAME}"))
    return [(path, fleet) for path in folders if (fleet := running_in(path))]


def read_run(state_dir: Path) -> Run:
    """What a run was started with; UsageError for a folder that is no run's."""
    try:
        return msgspec.json.decode((state_dir / RUN_FILE_NAME).read_bytes(), type=Run)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{state_dir} holds no run: {error}") from error


def models_of(state_dir: Path) -> Path:
    """The folder of models that a run was started with."""
    return Path(read_run(state_dir).models)


def choose_fleet(state_dir: Path | None) -> tuple[Path, RunningFleet]:
    """The named folder's fleet, or the only one below ./state; UsageError that names the choice otherwise."""
    if state_dir is not None:
        if fleet := running_in(state_dir):
            return state_dir, fleet
        raise UsageError(f"no fleet runs from {state_dir}: start it with quantum up --state-dir {state_dir}")
    found = running_below(STATE_FOLDERS)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"no fleet runs from a folder below {STATE_FOLDERS.resolve()}: name one with --state-dir DIR")
    names = ", ".join(str(folder) for folder, _ in found)
    raise UsageError(f"several fleets run ({names}): choose one with --state-dir DIR")


def read_token(state_dir: Path) -> str:
    """Token of a fleet's mutations; UsageError when this user may not read it."""
    try:
        return token_path(state_dir).read_text()
    except OSError as error:
        raise UsageError(f"{token_path(state_dir)}: {error.strerror or os.strerror(error.errno or 0)}") from error
