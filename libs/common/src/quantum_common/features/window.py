"""Packed vectors in a symbol's window, a sorted set by bar time: written by feature-svc, read by agents."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quantum_common.features.definition import VECTOR_LENGTH

KEPT_VECTORS = 512

_FORMAT = struct.Struct(f"<q{VECTOR_LENGTH}d")
_ROWS = np.dtype([("ts", "<i8"), ("vector", "<f8", VECTOR_LENGTH)])


def pack_vector(ts: int, close: float, output: Sequence[float]) -> bytes:
    """Open time, then (close, log return, 18 raw features) from what `step` wrote."""
    return _FORMAT.pack(ts, close, *output[: VECTOR_LENGTH - 1])


def unpack_vectors(packed: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Open times (n,) and vectors (n, 20), in the order given."""
    rows = np.frombuffer(b"".join(packed), _ROWS)
    return rows["ts"].astype(np.int64), rows["vector"].astype(np.float64)
