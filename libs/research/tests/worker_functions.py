"""What the tests of jobs run in worker processes: a module that can be imported by name there."""

import os
import time
from pathlib import Path

import numpy as np


def scaled_sum(shared: np.ndarray, factor: int) -> tuple[float, str, int]:
    return float((shared * factor).sum()), os.environ.get("OMP_NUM_THREADS", ""), os.getpid()


def fails_at_two(folder: Path, number: int) -> int:
    if number == 2:
        raise LookupError("two")
    if number > 2:
        time.sleep(0.2)
    (folder / str(number)).touch()
    return number


def dies(_: None, __: int) -> None:
    os._exit(3)


def waits(folder: Path, number: int) -> None:
    (folder / f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(600)


def waits_or_fails(folder: Path, number: int) -> None:
    if number == 0:
        waits(folder, number)
    while not (folder / "0.pid").exists():
        time.sleep(0.01)
    raise LookupError("one")


class NotHere:
    """What a worker cannot take in."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _missing, ()


def _missing() -> None:
    raise OSError("a library that is missing")


def ignores(_: object, number: int) -> int:
    return number
