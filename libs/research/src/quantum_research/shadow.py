"""How long a challenger predicts beside the champion: written by the deployment, read by whoever ends the period."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

FILE_NAME = "shadow-period.json"


class ShadowPeriod(msgspec.Struct, frozen=True):
    version: str
    bars: int
    """Labelled bars of the champion that the period lasts."""


def write_shadow_period(models_dir: Path, agent: str, version: str, bars: int) -> None:
    path = models_dir / agent / FILE_NAME
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.encode(ShadowPeriod(version, bars)))
    os.replace(draft, path)


def shadow_period(models_dir: Path, agent: str, version: str) -> int | None:
    """None when nobody wrote it down for this version."""
    try:
        found = msgspec.json.decode((models_dir / agent / FILE_NAME).read_bytes(), type=ShadowPeriod)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found.bars if found.version == version else None
