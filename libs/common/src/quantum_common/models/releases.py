"""Which version serves: promotion, rollback and the shadow, with an append-only journal `releases.jsonl` per agent.

The `current` pointer alone says what serves. A line is written before the pointer moves, so a crash in between leaves a
line that the pointer contradicts: it did not take effect and is left out of the history. A version that a rollback
names stays withdrawn even then, and the rollback can be repeated.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from quantum_common.models.manifest import ModelRefused
from quantum_common.models.store import (
    CURRENT_FILE,
    SHADOW_FILE,
    check_published,
    current_version,
    point,
    shadow_version,
    unpoint,
)

RELEASES_FILE = "releases.jsonl"


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the version that serves."""

    version: str
    previous: str | None
    """Served before; None for an agent's first release."""
    action: Literal["promote", "rollback"]
    reason: str
    at_ms: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Release)


def promote(
    models_dir: Path, agent: str, version: str, *, reason: str, at_ms: int, even_withdrawn: bool = False
) -> None:
    """Let a published version serve; nothing happens when it does already. A shadow that is promoted is one no more.

    Raises ModelRefused: `version_missing`, or `withdrawn` unless `even_withdrawn` (an operator's explicit wish).
    """
    with _alone(models_dir, agent):
        check_published(models_dir, agent, version)
        if not even_withdrawn and version in withdrawn(models_dir, agent):
            raise ModelRefused("withdrawn", f"{agent} {version} was rolled back and is not promoted again by itself")
        previous = current_version(models_dir, agent)
        if version != previous:
            _release(
                models_dir,
                agent,
                Release(version=version, previous=previous, action="promote", reason=reason, at_ms=at_ms),
            )
        if shadow_version(models_dir, agent) == version:
            unpoint(models_dir, agent, SHADOW_FILE)


def rollback(models_dir: Path, agent: str, *, reason: str, at_ms: int) -> str:
    """Return to the version that served before the present one, and withdraw the present one; returns the new version.

    A second rollback goes one further back; withdrawn versions are passed over. Raises ModelRefused
    (`nothing_to_roll_back_to`, `version_missing`).
    """
    with _alone(models_dir, agent):
        target, present = previous_version(models_dir, agent), current_version(models_dir, agent)
        if target is None:
            raise ModelRefused("nothing_to_roll_back_to", f"{agent}: no version served before {present}")
        check_published(models_dir, agent, target)
        _release(
            models_dir, agent, Release(version=target, previous=present, action="rollback", reason=reason, at_ms=at_ms)
        )
        return target


def set_shadow(models_dir: Path, agent: str, version: str) -> None:
    """Let a published version predict beside the current one, without a vote. Raises ModelRefused."""
    with _alone(models_dir, agent):
        check_published(models_dir, agent, version)
        if version == current_version(models_dir, agent):
            raise ModelRefused("already_current", f"{agent} {version} serves already and cannot be its own shadow")
        point(models_dir, agent, SHADOW_FILE, version)


def clear_shadow(models_dir: Path, agent: str) -> None:
    """End the shadow period; nothing happens without one."""
    unpoint(models_dir, agent, SHADOW_FILE)


def releases(models_dir: Path, agent: str) -> list[Release]:
    """Every release that took effect, oldest first. Raises ModelRefused (`releases_invalid`) for a damaged journal."""
    lines = _lines(models_dir, agent)
    followed_by = [*(line.previous for line in lines[1:]), current_version(models_dir, agent)]
    return [line for line, then in zip(lines, followed_by, strict=False) if line.version == then]


def withdrawn(models_dir: Path, agent: str) -> set[str]:
    """Versions that were rolled back."""
    return {line.previous for line in _lines(models_dir, agent) if line.action == "rollback" and line.previous}


def history(models_dir: Path, agent: str) -> list[str]:
    """Versions to return to, oldest first; the last one serves. Versions that were rolled back are not among them."""
    served: list[str] = []
    for release in releases(models_dir, agent):
        if release.previous and served[-1:] != [release.previous]:
            served.append(release.previous)  # served before the journal began, or pointed to by hand
        if release.action == "rollback":
            served.pop()
            while served and served[-1] != release.version:  # withdrawn ones in between
                served.pop()
        if served[-1:] != [release.version]:
            served.append(release.version)
    current = current_version(models_dir, agent)
    return served if current in (None, *served[-1:]) else [*served, str(current)]


def previous_version(models_dir: Path, agent: str) -> str | None:
    """The version that a rollback returns to; None when there is none."""
    served = history(models_dir, agent)
    refused = withdrawn(models_dir, agent) | {*served[-1:]}
    return next((version for version in reversed(served) if version not in refused), None)


def _release(models_dir: Path, agent: str, release: Release) -> None:
    """Journal first: what the line promises can be repeated after a crash, what the pointer forgot cannot."""
    _append(models_dir / agent / RELEASES_FILE, _encoder.encode(release) + b"\n")
    point(models_dir, agent, CURRENT_FILE, release.version)


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.truncate(len(_whole_lines(path)))  # a line that a crash cut short would swallow this one
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(path: Path) -> bytes:
    """The journal without a last line that a crash cut short."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


def _lines(models_dir: Path, agent: str) -> list[Release]:
    path = models_dir / agent / RELEASES_FILE
    try:
        return [_decoder.decode(line) for line in _whole_lines(path).splitlines()]
    except msgspec.DecodeError as error:
        raise ModelRefused("releases_invalid", f"{path}: {error}; repair or remove the line") from error


@contextmanager
def _alone(models_dir: Path, agent: str) -> Iterator[None]:
    """One release at a time: the trainer and an operator may both want one. Raises ModelRefused without a folder."""
    try:
        folder = os.open(models_dir / agent, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelRefused("version_missing", f"{agent} has no models in {models_dir}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
