"""The 18 features and the regime: one scalar step for live and batch, views for models, candle hygiene, the hash."""

from quantum_common.features.definition import (
    FEATURE_COUNT,
    FEATURE_NAMES,
    LONGEST_STEPPED_GAP_BARS,
    SEQUENCE_BARS,
    SEQUENCE_CHANNELS,
    VECTOR_LENGTH,
    VIEWS,
    WARMUP_BARS,
    feature_hash,
)
from quantum_common.features.recursion import (
    OUTPUT_LENGTH,
    BadState,
    bars_seen,
    new_state,
    pack_state,
    step,
    unpack_state,
)
from quantum_common.features.window import KEPT_VECTORS, pack_vector, unpack_vectors

__all__ = [
    "FEATURE_COUNT",
    "FEATURE_NAMES",
    "KEPT_VECTORS",
    "LONGEST_STEPPED_GAP_BARS",
    "OUTPUT_LENGTH",
    "SEQUENCE_BARS",
    "SEQUENCE_CHANNELS",
    "VECTOR_LENGTH",
    "VIEWS",
    "WARMUP_BARS",
    "BadState",
    "bars_seen",
    "feature_hash",
    "new_state",
    "pack_state",
    "pack_vector",
    "step",
    "unpack_state",
    "unpack_vectors",
]
