"""Two views of the same 18 numbers, and the arrays that models take. Pure: training and serving call these."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantum_common.features.definition import FEATURE_COUNT, VECTOR_LENGTH, VIEWS, VOLUME_CLIP

Floats = NDArray[np.float64]


def relative(values: Floats, close: Floats) -> Floats:
    """Scale-free features of the same bar, (…, 18) from raw (…, 18) and close (…).

    MACD and its signal over close; EMAs and bands over close, minus 1; volume features at most 50; the rest as it is.
    """
    out: Floats = values.astype(np.float64, copy=True)
    price = np.asarray(close, np.float64)[..., np.newaxis]
    out[..., 1:3] /= price
    out[..., 3:8] = out[..., 3:8] / price - 1.0
    np.minimum(out[..., 8:11], VOLUME_CLIP, out=out[..., 8:11])
    return out


def view(name: str, values: Floats, close: Floats) -> Floats:
    """`values` (…, 18) in the view that a manifest names."""
    if name not in VIEWS:
        raise ValueError(f"view {name!r}: use one of {', '.join(VIEWS)}")
    return relative(values, close) if name == "relative" else values


def rows(values: Floats, close: Floats, name: str) -> NDArray[np.float32]:
    """Input of a row model: (n, 18) float32 from raw values (n, 18) and close (n)."""
    return np.ascontiguousarray(view(name, values, close), np.float32)


def sequence(vectors: Floats, name: str) -> NDArray[np.float32]:
    """Input of a sequence model: (n, length, 19) float32, oldest bar first, from stored vectors (n, length, 20).

    Channels: log return, then the 18 features. Every bar is divided by its own close.
    """
    out = np.empty((*vectors.shape[:-1], 1 + FEATURE_COUNT), np.float32)
    out[..., 0] = vectors[..., 1]
    out[..., 1:] = view(name, vectors[..., 2:], vectors[..., 0])
    return out


def vectors(close: Floats, log_return: Floats, values: Floats) -> Floats:
    """Stored vectors (…, 20): close, log return, 18 raw features."""
    out = np.empty((*np.shape(close), VECTOR_LENGTH))
    out[..., 0] = close
    out[..., 1] = log_return
    out[..., 2:] = values
    return out
