"""The folder of models: `<models_dir>/<agent>/<version>/{model.onnx, manifest.json}` and the pointers beside them.

A version is written beside its place, synced and renamed, and never changed afterwards; a pointer (`current`, `shadow`)
is replaced atomically. So a reader sees a whole version or none. `releases` says which version is pointed to.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

import msgspec

from quantum_common import QuantumError
from quantum_common.models.manifest import Manifest, ModelRefused, decode_manifest, encode_manifest

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
CURRENT_FILE = "current"
SHADOW_FILE = "shadow"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class CannotPublish(QuantumError):
    """The version exists already, or its name does not suit a folder."""


def publish(models_dir: Path, manifest: Manifest, onnx_bytes: bytes) -> Path:
    """Write a version durably and return its folder; it serves only when it is promoted.

    The manifest's sha256 is computed here.
    """
    for name in (manifest.agent, manifest.version):
        if not _NAME.fullmatch(name):
            raise CannotPublish(f"{name!r} cannot be the name of a folder")
    target = models_dir / manifest.agent / manifest.version
    if target.exists():
        raise CannotPublish(f"{target} exists: versions are never overwritten")
    partial = target.with_name(f".{manifest.version}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    signed = msgspec.structs.replace(manifest, sha256=hashlib.sha256(onnx_bytes).hexdigest())
    _write(partial / MODEL_FILE, onnx_bytes)
    _write(partial / MANIFEST_FILE, encode_manifest(signed))
    _sync_folder(partial)
    partial.rename(target)
    _sync_folder(target.parent)
    return target


def point(models_dir: Path, agent: str, pointer: str, version: str) -> None:
    """Let a pointer name a version, atomically and durably."""
    folder = models_dir / agent
    partial = folder / f".{pointer}.partial"
    _write(partial, version.encode())
    partial.replace(folder / pointer)
    _sync_folder(folder)


def unpoint(models_dir: Path, agent: str, pointer: str) -> None:
    """Remove a pointer; nothing happens when there is none."""
    folder = models_dir / agent
    if (folder / pointer).is_file():
        (folder / pointer).unlink(missing_ok=True)
        _sync_folder(folder)


def check_published(models_dir: Path, agent: str, version: str) -> None:
    """ModelRefused (`version_missing`) unless the version is there."""
    if not (models_dir / agent / version / MANIFEST_FILE).is_file():
        raise ModelRefused("version_missing", f"{agent} has no version {version!r}")


def current_version(models_dir: Path, agent: str) -> str | None:
    """The version that serves, or None without a pointer."""
    return _pointed(models_dir, agent, CURRENT_FILE)


def shadow_version(models_dir: Path, agent: str) -> str | None:
    """The challenger that predicts beside the current version, or None."""
    return _pointed(models_dir, agent, SHADOW_FILE)


def _pointed(models_dir: Path, agent: str, pointer: str) -> str | None:
    try:
        return (models_dir / agent / pointer).read_text().strip() or None
    except FileNotFoundError:
        return None


def versions(models_dir: Path, agent: str) -> list[str]:
    """Published versions, sorted by name."""
    folder = models_dir / agent
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if (path / MANIFEST_FILE).is_file() and path.name[0] != ".")


def read_manifest(models_dir: Path, agent: str, version: str | None = None) -> Manifest:
    """The manifest of a version (default: the current one). Raises ModelRefused."""
    return decode_manifest(_read(resolve(models_dir, agent, version) / MANIFEST_FILE, "manifest_missing"))


def read_artifact(models_dir: Path, agent: str, version: str | None = None) -> tuple[Manifest, bytes]:
    """Manifest and model of a version, the model read once and its checksum verified. Raises ModelRefused."""
    folder = resolve(models_dir, agent, version)
    manifest = decode_manifest(_read(folder / MANIFEST_FILE, "manifest_missing"))
    onnx_bytes = _read(folder / MODEL_FILE, "model_missing")
    found = hashlib.sha256(onnx_bytes).hexdigest()
    if found != manifest.sha256:
        raise ModelRefused("checksum_mismatch", f"{MODEL_FILE} is {found[:12]}…, manifest says {manifest.sha256[:12]}…")
    if manifest.version != folder.name:
        raise ModelRefused("version_mismatch", f"folder {folder.name} holds version {manifest.version}")
    return manifest, onnx_bytes


def resolve(models_dir: Path, agent: str, version: str | None) -> Path:
    """Folder of a version, the current one by default."""
    chosen = version or current_version(models_dir, agent)
    if chosen is None:
        raise ModelRefused("no_model", f"{agent} has no current version")
    return models_dir / agent / chosen


def _read(path: Path, reason: str) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ModelRefused(reason, f"{path.parent.name}/{path.name} is not there") from None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
