"""How the LightGBM agent is served."""

from quantum_common.agent.spec import ModelSpec

MODEL = ModelSpec(agent="lgbm", input_kind="row", view="relative")
