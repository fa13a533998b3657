"""Model artifacts: what stands in a manifest, how one is published and released, and how one is loaded and verified.

`models.serving` (extra `serve`) is the only module that needs ONNX Runtime.
"""

from quantum_common.models.manifest import Golden, LinearModel, Manifest, ModelRefused, age_s, described
from quantum_common.models.releases import (
    Release,
    clear_shadow,
    history,
    previous_version,
    promote,
    releases,
    rollback,
    set_shadow,
    withdrawn,
)
from quantum_common.models.store import (
    current_version,
    publish,
    read_manifest,
    shadow_version,
    versions,
)

__all__ = [
    "Golden",
    "LinearModel",
    "Manifest",
    "ModelRefused",
    "Release",
    "age_s",
    "clear_shadow",
    "current_version",
    "described",
    "history",
    "previous_version",
    "promote",
    "publish",
    "read_manifest",
    "releases",
    "rollback",
    "set_shadow",
    "shadow_version",
    "versions",
    "withdrawn",
]
