"""What trainer-svc remembers across restarts: small JSON files, each written whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from trainer_svc.core import Reason
from trainer_svc.errors import StateDamaged

KEPT_RUNS = 20

T = TypeVar("T")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A training that was asked for and has not ended: after a restart it goes on."""

    run_id: str
    reason: Reason
    detail: str
    meta_only: bool
    to_ms: int
    """End of the candles it may see, exclusive: the same after a restart, so that finished folds are used again."""
    started_ms: int
    """Market time."""
    starts: int = 0
    """How often its process was started; an orderly stop of the service does not count."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    run: Run
    outcome: str
    detail: str
    ended_ms: int
    """Market time."""
    wall_s: float


class TrainerState(msgspec.Struct, frozen=True, kw_only=True):
    first_start_ms: int
    running: Run | None = None
    ended: tuple[Ended, ...] = ()
    """Newest last."""

    def started(self, run: Run) -> TrainerState:
        return msgspec.structs.replace(self, running=run)

    def finished(self, ended: Ended) -> TrainerState:
        return msgspec.structs.replace(self, running=None, ended=(*self.ended, ended)[-KEPT_RUNS:])

    def last_end_ms(self, reason: Reason | None = None) -> int | None:
        """End of the newest training, or of the newest one with this reason."""
        ends = [row.ended_ms for row in self.ended if reason in (None, row.run.reason)]
        return max(ends, default=None)


def read(path: Path, kind: type[T]) -> T | None:
    """What stands in the file; None without one. Raises StateDamaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateDamaged(f"{path}: {error}; remove the file to begin anew") from error


def write(path: Path, value: msgspec.Struct) -> None:
    """Replace the file atomically and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        file.write(msgspec.json.encode(value))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
