"""What an agent's `model.py` declares: which artifact is served and what it looks at."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """`row`: the 18 features of the bar. `window`: the last 64 bars of log return and 18 features, oldest first."""

    agent: str
    input_kind: Literal["row", "window"]
    view: Literal["raw", "relative"]
