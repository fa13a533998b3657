"""The four base agents, in the order in which every vector lists them."""

AGENTS: tuple[str, ...] = ("xgb", "lgbm", "nhits", "patchtst")
"""Order of the V2 inputs; the weighted vote does not depend on it."""

AGENT_SERVICES: dict[str, str] = {agent: f"{agent}-agent" for agent in AGENTS}
