"""What `quantum doctor` looks at: each check says what it found and, where something is wrong, what to do.

Checks of the machine and the files here; those that ask servers, services and the venue are in `doctor_remote`.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from quantum_cli.fleet import SERVICES
from quantum_cli.reach import Reach
from quantum_cli.running import FILE_NAME, token_path
from quantum_common import QuantumError
from quantum_common.domain import AGENTS
from quantum_common.models import ModelRefused, age_s, current_version
from quantum_common.service import FleetSettings
from quantum_common.service.clock import wall_ms
from quantum_common.service.settings import check_names, validated

Level = Literal["ok", "warn", "fail"]

PYTHON = (3, 11)
LEAST_DISK_GB, LITTLE_DISK_GB = 1.0, 5.0
LEAST_MEMORY_MB, LITTLE_MEMORY_MB = 1_200, 1_800
"""The fleet takes up to 1.2 GB; the first training as much again for a while. The small machine is 2 cores, 4 GB."""
RUNNING_LEAST_MEMORY_MB, RUNNING_LITTLE_MEMORY_MB = 150, 400
"""Left over beside a fleet that runs."""
OLD_MODEL_DAYS = 60.0


class Finding(msgspec.Struct, frozen=True):
    """One check. `fix` is empty when there is nothing to do."""

    check: str
    level: Level
    found: str
    fix: str = ""


def python() -> Iterator[Finding]:
    found = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.version_info[:2] == PYTHON:
        yield Finding("python", "ok", found)
    else:
        level: Level = "warn" if sys.version_info[:2] > PYTHON else "fail"
        yield Finding("python", level, found, "the fleet is tested on Python 3.11: make install PYTHON=python3.11")


def names() -> Iterator[Finding]:
    """A mistyped name stops every service, so it is found here first (F13)."""
    from meta_svc.settings import check_meta_names

    wrong = 0
    for check in (check_names, check_meta_names):
        try:
            check()
        except QuantumError as error:
            wrong += 1
            yield Finding("setting names", "fail", str(error), "correct the name, or unset it")
    if not wrong:
        count = sum(name.startswith(("QT_", "META_")) for name in os.environ)
        yield Finding("setting names", "ok", f"QT_ and META_ names exported: {count}, all known")


def settings() -> Iterator[Finding]:
    """Every service's settings, made as it makes them."""
    wrong: dict[str, list[str]] = {}
    for member in SERVICES:
        try:
            made = validated(settings_class(member.module))
            getattr(made, "risk_config", None)  # the limits have ranges of their own
        except ModuleNotFoundError:  # an image that holds only some of the services
            continue
        except QuantumError as error:
            for row in str(error).split("; "):
                wrong.setdefault(row, []).append(member.name)
    for row, services in wrong.items():
        named = services[0] if len(services) == 1 else f"{len(services)} services"
        yield Finding("settings", "fail", f"{row} ({named})", "docs/reference/settings.md has every value")
    if not wrong:
        yield Finding("settings", "ok", "those of every service validate")


def settings_class(module: str) -> Callable[[], FleetSettings]:
    """The settings of a service by its package. ModuleNotFoundError when it is not installed."""
    found = vars(import_module(f"{module}.settings")).values()
    return next(
        each
        for each in found
        if isinstance(each, type) and issubclass(each, FleetSettings) and each is not FleetSettings
    )


def mode() -> Iterator[Finding]:
    """Live needs two settings that agree."""
    try:
        from executor_svc.settings import ExecutorSettings
    except ModuleNotFoundError:  # the operator's image
        yield Finding("mode", "ok", "not checked here: executor-svc refuses to start when its settings disagree")
        return
    try:
        executor = validated(ExecutorSettings)
        executor.check_mode()
    except QuantumError as error:
        yield Finding("mode", "fail", str(error), "docs/reference/settings.md, executor-svc")
        return
    if executor.mode == "live":
        yield Finding("mode", "warn", f"live on {executor.exchange}, account {executor.account}: real orders")
    else:
        yield Finding("mode", "ok", "paper")


def threads() -> Iterator[Finding]:
    value = os.environ.get("OMP_NUM_THREADS")
    if value == "1":
        yield Finding("threads", "ok", "OMP_NUM_THREADS=1")
    else:
        said = "not set" if value is None else f"is {value}"
        fix = "export OMP_NUM_THREADS=1 for services that you start by hand (quantum up and the images do it)"
        yield Finding("threads", "warn", f"OMP_NUM_THREADS {said}: threads fight over the cores", fix)


def disk(reach: Reach) -> Iterator[Finding]:
    folder = reach.settings.state_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    found = f"{free_gb:.1f} GB free for {folder}"
    fix = "free space, or put the state folder elsewhere: a full disk stops the server and the recorder"
    yield _measured("disk", found, free_gb, LEAST_DISK_GB, LITTLE_DISK_GB, fix)


def memory(running: bool) -> Iterator[Finding]:
    available_mb = psutil.virtual_memory().available / 1e6
    least, little = (
        (RUNNING_LEAST_MEMORY_MB, RUNNING_LITTLE_MEMORY_MB) if running else (LEAST_MEMORY_MB, LITTLE_MEMORY_MB)
    )
    found = f"{available_mb:,.0f} MB available{' beside the fleet' if running else ''}"
    fix = "stop what else runs; the fleet takes up to 1,200 MB, training as much again: trainer-svc may run elsewhere"
    yield _measured("memory", found, available_mb, least, little, fix)


def _measured(check: str, found: str, value: float, least: float, little: float, fix: str) -> Finding:
    level: Level = "ok" if value >= little else "warn" if value >= least else "fail"
    return Finding(check, level, found, "" if level == "ok" else fix)


def models(reach: Reach, running: bool) -> Iterator[Finding]:
    """Loads what serves as its service does."""
    folder, needed = reach.settings.models_dir, (*AGENTS, _meta_folder())
    if not running and not any(current_version(folder, agent) for agent in needed):
        yield Finding("models", "warn", f"none in {folder}", "quantum up trains first ones; or quantum train")
        return
    for agent in needed:
        yield _model(folder, agent)


def _meta_folder() -> str:
    from meta_svc.versions import VERSIONS

    version = VERSIONS.get(os.environ.get("META_VERSION", "v2"))
    return version.folder if version else "meta"


def _model(folder: Path, agent: str) -> Finding:
    from quantum_common.models.serving import verify  # here, because it brings ONNX Runtime

    check, version = f"model {agent}", current_version(folder, agent)
    if version is None:
        return Finding(check, "fail", f"{folder / agent} has no current version", f"quantum models promote {agent} …")
    try:
        manifest = verify(folder, agent, version).manifest
    except (ModelRefused, OSError) as error:
        fix = f"quantum models rollback {agent} --models {folder}, or quantum train"
        return Finding(check, "fail", f"{version} is refused: {error}", fix)
    days = age_s(manifest, wall_ms()) / 86_400
    found = f"{version} {manifest.quality}, {days:.0f} days old, {manifest.timeframe} bars"
    if manifest.quality != "proven":
        return Finding(check, "warn", found, "not better than the class prior on its folds: docs/guides/models.md")
    if days > OLD_MODEL_DAYS:
        return Finding(check, "warn", found, "quantum deploy trains a new one (a replay of old candles needs none)")
    return Finding(check, "ok", found)


def secrets(reach: Reach) -> Iterator[Finding]:
    """Files with passwords and tokens: nobody else may read them."""
    folder = reach.settings.secrets_dir
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder and folder.is_dir() else []
    if folder and not files:
        yield Finding("secrets", "fail", f"QT_SECRETS_DIR {folder} holds no file", "quantum secrets --out DIR")
        return
    if reach.state_dir is not None:
        files += [path for path in (token_path(reach.state_dir), reach.state_dir / FILE_NAME) if path.exists()]
    exposed = [path for path in files if path.stat().st_mode & stat.S_IROTH]
    if exposed:
        yield Finding("secrets", "fail", f"readable by everyone: {_listed(exposed)}", f"chmod o-r {_listed(exposed)}")
    else:
        yield Finding("secrets", "ok", f"{len(files)} files, none readable by everyone")


def _listed(paths: list[Path]) -> str:
    return " ".join(map(str, paths))
