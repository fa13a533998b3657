"""`quantum train --meta-from`: the meta learners anew, on what the running fleet predicted."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from rich.console import Console


def run_meta_training(
    *,
    archive_dir: Path,
    models_dir: Path,
    min_date_ms: int | None,
    min_samples: int,
    report_dir: Path | None,
    as_json: bool,
    console: Console,
) -> None:
    """Train on the archive, publish, and show the report. Raises QuantumError; then the old models stay."""
    from quantum_research.archive_training import ArchiveRequest, train_from_archive  # here: brings PyTorch

    request = ArchiveRequest(
        archive_dir=archive_dir,
        models_dir=models_dir,
        min_ms=min_date_ms,
        min_samples=min_samples,
        report_dir=report_dir,
    )
    report = train_from_archive(request).as_json()
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        console.print_json(data=report)
