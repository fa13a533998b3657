"""How the XGBoost agent is served."""

from quantum_common.agent.spec import ModelSpec

MODEL = ModelSpec(agent="xgb", input_kind="row", view="relative")
