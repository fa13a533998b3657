"""Meta decision: joins the agents' votes of a bar into one explained decision."""

from meta_svc.meta_agent import MetaAgentV2

__all__ = ["MetaAgentV2"]
