"""How the PatchTST agent is served."""

from quantum_common.agent.spec import ModelSpec

MODEL = ModelSpec(agent="patchtst", input_kind="window", view="relative")
