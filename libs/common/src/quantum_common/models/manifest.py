"""The manifest beside a model: everything that must agree before the model may vote. JSON, no pickle."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from quantum_common import QuantumError

Kind = Literal["row", "window", "meta"]

GOLDEN_ROWS = 8


class ModelRefused(QuantumError):
    """An artifact that must not be served. `reason` is a code, `detail` says what was found and expected."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Golden(msgspec.Struct, frozen=True):
    """Rows whose probabilities are known: whoever loads the model must get the same."""

    inputs: list[Any]
    """float32 values as nested lists, (8, features) or (8, bars, channels)."""
    probabilities: list[list[float]]
    """(8, 3): P(SELL), P(HOLD), P(BUY)."""


class LinearModel(msgspec.Struct, frozen=True):
    """The meta model in numbers, for exact contributions: coefficient × standardised input / temperature."""

    coefficients: list[list[float]]
    """(3, inputs)."""
    intercept: list[float]
    mean: list[float]
    """Of each input, on the training part."""
    scale: list[float]
    temperature: float
    class_bias: list[float]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    agent: str
    version: str
    kind: Kind
    sha256: str = ""
    """Of model.onnx, hex; filled in when it is published."""
    feature_hash: str
    view: str
    feature_names: tuple[str, ...]
    """Inputs of a row, in order. A window has the log return as one more channel before them."""
    class_order: tuple[str, ...]
    timeframe: str
    horizon_bars: int
    label_threshold: float
    """Fraction; with `label_scaling` volatility a multiple of what the close is expected to move over the horizon."""
    label_scaling: Literal["fixed", "volatility"] = "fixed"
    window_bars: int
    """1 for row and meta models."""
    symbols: tuple[str, ...]
    """Symbols trained on."""
    library_versions: dict[str, str]
    data_from_ms: int
    """Open time of the first bar trained on."""
    labels_to_ms: int
    """End of the last label's reach: the model knows nothing later, and must not be judged on anything earlier."""
    metrics: dict[str, Any]
    """With the baselines they are compared to."""
    quality: Literal["proven", "unproven"]
    parameters: int
    golden: Golden
    linear: LinearModel | None = None
    """Of the meta models v2 and v2p; None for every other."""

    @property
    def label(self) -> tuple[str, int, float, str]:
        """What its probabilities are about; only models of the same label can be compared or serve together."""
        return self.timeframe, self.horizon_bars, self.label_threshold, self.label_scaling


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.format(_encoder.encode(manifest), indent=1)


def decode_manifest(data: bytes) -> Manifest:
    """Raises ModelRefused (`manifest_invalid`) naming the field."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelRefused("manifest_invalid", str(error)) from error


def described(manifest: Manifest) -> dict[str, str | int]:
    """The model that serves, as /info of agents and meta-svc names it. `labels_to_ms` dates it."""
    return {
        "agent": manifest.agent,
        "version": manifest.version,
        "quality": manifest.quality,
        "labels_to_ms": manifest.labels_to_ms,
    }


def age_s(manifest: Manifest | None, now_ms: int) -> float:
    """Seconds of market time since the model's last label ended; NaN without a model or a known time."""
    return (now_ms - manifest.labels_to_ms) / 1000 if manifest and now_ms else float("nan")
