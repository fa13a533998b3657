"""Model artifacts: what stands in a manifest, how one is published, and how one is loaded and verified.

`models.serving` (extra `serve`) is the only module that needs ONNX Runtime.
"""

from quantum_common.models.manifest import Golden, LinearModel, Manifest, ModelRefused
from quantum_common.models.store import (
    current_version,
    publish,
    read_manifest,
    set_current,
    versions,
)

__all__ = [
    "Golden",
    "LinearModel",
    "Manifest",
    "ModelRefused",
    "current_version",
    "publish",
    "read_manifest",
    "set_current",
    "versions",
]
