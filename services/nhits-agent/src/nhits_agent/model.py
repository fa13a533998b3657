"""How the N-HiTS agent is served."""

from quantum_common.agent.spec import ModelSpec

MODEL = ModelSpec(agent="nhits", input_kind="window", view="relative")
