"""Settings of trainer-svc, beside those every service has."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from quantum_common.domain import DEFAULT_LABEL_THRESHOLD, timeframe_ms
from quantum_common.domain.timeframe import DEFAULT_HORIZON_BARS
from quantum_common.service import FleetSettings
from trainer_svc.core import DAY_MS, Policy
from trainer_svc.live import Label

META_FOLDERS = {"v2": "meta", "v2p": "meta-v2p", "v1": "meta-v1"}
"""Meta learner → its folder of models."""


class Settings(FleetSettings):
    service: ClassVar[str] = "trainer-svc"

    train_automatic: bool = True
    """Start trainings by itself; false: only when asked. Versions are watched all the same."""
    train_data_dir: Path | None = None
    """Folder of candle files to train from; without one the venue is asked."""
    train_venue: str = "binance"
    """ccxt id of the venue, as in the candle files' names."""
    train_parameters: Path | None = None
    """best.json of a search: train with its hyperparameters."""
    train_every_days: float = Field(7.0, gt=0)
    """Longest time without a training."""
    train_pause_hours: float = Field(24.0, ge=0)
    """Between the end of a training and the next one that nobody asked for."""
    train_max_rss_mb: int = Field(3_000, gt=0)
    """Resident memory of a training and all its processes above which it is ended."""
    train_quick: bool = False
    """Train on the newest 10,000 bars a symbol with smaller models."""
    train_label_threshold: float | None = Field(None, gt=0, lt=1)
    """Fraction; without it the timeframe's default."""
    meta_version: Literal["v1", "v2", "v2p"] = Field("v2", validation_alias="META_VERSION")
    """The meta learner that serves."""
    horizon_bars: int = Field(DEFAULT_HORIZON_BARS, ge=1)
    """Bars that a label looks ahead."""
    shadow_bars: int = Field(500, ge=0)
    """Labelled bars that a challenger predicts beside the champion before it may serve; 0: it serves at once."""
    min_labelled_bars: int = Field(500, ge=1)
    """Live bars with a known label below which live accuracy and log-loss are not judged."""
    max_accuracy_drop: float = Field(0.05, gt=0, lt=1)
    """Fall of live accuracy over the majority class, against the manifest, that asks for a training."""
    return_within_days: float = Field(14.0, gt=0)
    """Age of a release up to which drifted predictions with a bad log-loss take it back."""

    @property
    def policy(self) -> Policy:
        return Policy(
            every_ms=int(self.train_every_days * DAY_MS),
            pause_ms=int(self.train_pause_hours * 3_600_000),
            min_labelled_bars=self.min_labelled_bars,
            max_accuracy_drop=self.max_accuracy_drop,
            bar_ms=timeframe_ms(self.timeframe),
        )

    @property
    def label(self) -> Label:
        threshold = self.train_label_threshold or DEFAULT_LABEL_THRESHOLD[self.timeframe]
        return Label(self.horizon_bars, threshold)

    @property
    def meta(self) -> str:
        """The folder of the meta learner that serves."""
        return META_FOLDERS[self.meta_version]

    @property
    def folder(self) -> Path:
        """What this service writes: its state, and the work of the training in hand."""
        return self.state_dir / "trainer"
