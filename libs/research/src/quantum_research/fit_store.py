"""Finished fits on disk, so that a training that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is served."""

    onnx_bytes: bytes
    checked: Array
    """(rows, 3): what the framework says of the parity rows."""
    parameters: int


@dataclass(frozen=True, slots=True)
class Fit:
    """What one fit came to."""

    probabilities: Array
    """(rows, 3) of the fold's rows, or of the test rows; calibrated."""
    prior: Array
    """(3,): class shares of the rows it was given."""
    settings: dict[str, float]
    """What fitting decided: trees, epochs, temperature."""
    served: Served | None


class FitStore:
    """A folder with a file per fit. `folder` None keeps nothing. A file that cannot be read counts as not there."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, agent: str, fold: int | None) -> Fit | None:
        if self._folder is None:
            return None
        try:
            with np.load(io.BytesIO(self._path(self._folder, agent, fold).read_bytes()), allow_pickle=False) as found:
                return _decoded(found)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.DecodeError):
            return None

    def save(self, agent: str, fold: int | None, fit: Fit) -> None:
        """Durable and whole, or not at all."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(self._folder, agent, fold)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(_encoded(fit))
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)

    def _path(self, folder: Path, agent: str, fold: int | None) -> Path:
        return folder / f"{agent}-{'final' if fold is None else fold}.npz"


def key_of(*parts: bytes) -> str:
    """Folder name of a training: the same data and request give the same, and anything else another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def _encoded(fit: Fit) -> bytes:
    arrays: dict[str, Any] = {
        "probabilities": fit.probabilities,
        "prior": fit.prior,
        "settings": np.frombuffer(msgspec.json.encode(fit.settings), np.uint8),
    }
    if fit.served is not None:
        arrays |= {
            "onnx": np.frombuffer(fit.served.onnx_bytes, np.uint8),
            "checked": fit.served.checked,
            "parameters": np.array(fit.served.parameters),
        }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _decoded(found: Any) -> Fit:
    served = None
    if "onnx" in found:
        served = Served(found["onnx"].tobytes(), found["checked"], int(found["parameters"]))
    settings = msgspec.json.decode(found["settings"].tobytes(), type=dict[str, float])
    return Fit(found["probabilities"], found["prior"], settings, served)
