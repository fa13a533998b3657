"""`quantum models`: which versions there are, which one serves, and letting another one serve."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from quantum_cli.errors import RunFailed, UsageError
from quantum_cli.fleet_commands import AsJson, StateDir
from quantum_cli.model_registry import (
    MODEL_FOLDERS,
    VersionRow,
    check_agent,
    check_version,
    shown_manifest,
    version_rows,
)
from quantum_cli.options import DEFAULT_MODELS
from quantum_cli.plan import iso
from quantum_cli.running import STATE_FOLDERS, models_of, running_below, running_in
from quantum_cli.serving import serving_fleets, tell
from quantum_cli.terminal import console, errors, failing_with_a_message, print_json
from quantum_common.models import current_version, promote, releases, rollback, set_shadow
from quantum_common.service.clock import wall_ms

models_app = typer.Typer(no_args_is_help=True, help="Model versions: list, show, promote, roll back.")

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="xgb, lgbm, patchtst, nhits or meta")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="As quantum models list prints it")]
Models = Annotated[
    Path | None, typer.Option("--models", help="Folder of models; default: the running fleet's, else QT_MODELS_DIR")
]
Reason = Annotated[str, typer.Option("--reason", help="Written into the journal of releases")]


@models_app.command("list")
def list_models(models: Models = None, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Every version of every agent, the newest first."""
    with failing_with_a_message():
        folder, now_ms = _folder(models, state_dir), wall_ms()
        rows = [row for agent in MODEL_FOLDERS for row in version_rows(folder, agent, now_ms)]
    if as_json:
        print_json(rows)
    elif rows:
        console.print(*_table(rows), sep="\n", markup=False, soft_wrap=True)
    else:
        console.print(f"no models in {folder}", markup=False, soft_wrap=True)


@models_app.command()
def show(
    agent: Agent,
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="Default: the one that serves")] = None,
    models: Models = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """The manifest of a version, and every release of the agent."""
    with failing_with_a_message():
        folder = _folder(models, state_dir)
        chosen = version or current_version(folder, check_agent(agent))
        if chosen is None:
            raise UsageError(f"{agent} has no current version in {folder}: name one")
        manifest = shown_manifest(folder, agent, check_version(folder, agent, chosen))
        journal = releases(folder, agent)
    if as_json:
        print_json({"manifest": manifest, "releases": journal})
        return
    for name, value in manifest.items():
        console.print(f"{name:<17} {_plain(value)}", markup=False, soft_wrap=True)
    for release in journal:
        change = f"{release.action:<8}  {release.previous or '-'} → {release.version}"
        console.print(f"{iso(release.at_ms)}  {change}  {release.reason}", markup=False, soft_wrap=True)


@models_app.command("promote")
def promote_version(
    agent: Agent,
    version: Version,
    shadow: Annotated[bool, typer.Option("--shadow", help="Let it predict beside the current one, unvoted")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if unproven, withdrawn or of another label")] = False,
    reason: Reason = "operator",
    models: Models = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a version serve. What does not load, or says the same of everything, is refused whatever you say."""
    from quantum_cli.model_checks import check_promotable  # here, because it brings ONNX Runtime

    with failing_with_a_message():
        folder = _folder(models, state_dir)
        check_promotable(folder, agent, version, force=force)
        previous = current_version(folder, agent)
        with _writing(folder):
            if shadow:
                set_shadow(folder, agent, version)
            else:
                promote(folder, agent, version, reason=reason, at_ms=wall_ms(), even_withdrawn=force)
    _say(folder, state_dir, agent, version, previous, "shadow" if shadow else "current", as_json)


@models_app.command("rollback")
def roll_back(
    agent: Agent,
    reason: Reason = "operator",
    models: Models = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Return to the version that served before, and withdraw the present one."""
    with failing_with_a_message():
        folder = _folder(models, state_dir)
        previous = current_version(folder, check_agent(agent))
        with _writing(folder):
            version = rollback(folder, agent, reason=reason, at_ms=wall_ms())
    _say(folder, state_dir, agent, version, previous, "current", as_json)


def _folder(models: Path | None, state_dir: Path | None) -> Path:
    """What was named; else the only models that fleets below ./state use; else QT_MODELS_DIR, else state/models."""
    if models is not None:
        if not models.is_dir():
            raise UsageError(f"--models {models}: no such folder")
        return models
    if state_dir is not None:
        return models_of(state_dir)
    used = {models_of(folder) for folder, _ in running_below(STATE_FOLDERS)}
    if len(used) > 1:
        raise UsageError(f"fleets run with several folders of models: name one with --models, {_names(used)}")
    return used.pop() if used else Path(os.environ.get("QT_MODELS_DIR") or DEFAULT_MODELS)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """In a container only the trainer may write models."""
    try:
        yield
    except OSError as error:
        raise RunFailed(f"{folder} cannot be written, nothing was changed: {error.strerror}") from error


def _names(folders: set[Path]) -> str:
    return " or ".join(map(str, sorted(folders)))


def _say(
    folder: Path, state_dir: Path | None, agent: str, version: str, previous: str | None, role: str, as_json: bool
) -> None:
    told = _told(folder, state_dir)
    if as_json:
        print_json({"agent": agent, "version": version, "previous": previous, "role": role, "fleets_told": told})
        return
    beside = f"beside {previous}" if role == "shadow" else f"after {previous}"
    console.print(f"{agent}: {version} is {role} now, {beside}; fleets told: {told}", markup=False, soft_wrap=True)


def _told(folder: Path, state_dir: Path | None) -> int:
    """How many of the fleets that serve these models were told; the rest is said on stderr."""
    if state_dir is not None and running_in(state_dir) is None:
        return 0
    fleets = serving_fleets(folder, state_dir)
    problems = tell(fleets)
    for problem in problems:
        errors.print(f"a fleet could not be told: {problem}", markup=False, soft_wrap=True)
    return len(fleets) - len(problems)


def _table(rows: Sequence[VersionRow]) -> list[str]:
    """Aligned lines under a heading; never cut, so that a version can be copied from any terminal."""
    cells: list[tuple[str, ...]] = [("agent", "version", "role", "quality", "age", "label", "log-loss", "prior")]
    cells += [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def _cells(row: VersionRow) -> tuple[str, ...]:
    age = "-" if row.age_s is None else f"{row.age_s / 86_400:.1f} d"
    losses = ["-" if loss is None else f"{loss:.4f}" for loss in (row.log_loss, row.log_loss_prior)]
    return (row.agent, row.version, row.role, row.quality or "broken", age, row.problem or row.label, *losses)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
