"""The one agent app: four agents differ in their model and in nothing else."""

from quantum_common.agent.app import build
from quantum_common.agent.spec import ModelSpec

__all__ = ["ModelSpec", "build"]
