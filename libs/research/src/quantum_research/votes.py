"""What the agents said of labelled bars: the table on which every meta learner is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from meta_svc.batch import batch_inputs
from meta_svc.ensemble import DEFAULT_WEIGHTS
from quantum_common.domain import AGENTS
from quantum_research.splits import Rows, Times
from quantum_research.walk_forward import OutOfFold

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int8]

_MASKED_SHARE = 0.1
"""Of the rows. Measured on 250,000 rows of 1h bars: as many masked rows as whole ones cost a row on which all agents
vote .0003 of log-loss and gave masked rows as much; in a fleet nearly all rows are whole. Without any, the log-loss of
rows with an absent agent was .14 worse."""
_ABSENT_SHARE = 0.25
"""Of the agents of a masked row."""


@dataclass(frozen=True, slots=True)
class VoteTable:
    """Rows sorted by time; agents in the order of AGENTS. All but the label uses bars closing ≤ the row's close."""

    probabilities: Array
    """(rows, 4, 3): P(SELL), P(HOLD), P(BUY), by models that had not seen the row. Without meaning where absent."""
    present: Mask
    """(rows, 4): which agents vote; in every row at least one does."""
    label: Labels
    ts_ms: Times
    label_end_ms: Times
    volatility: Array
    trend_strength: Array
    prior: Array
    """(rows, 3): class shares that were known before the row."""

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Rows) -> VoteTable:
        return VoteTable(*(getattr(self, column.name)[rows] for column in fields(self)))

    def inputs(self, feature_names: Sequence[str], present: Mask | None = None) -> Array:
        """(rows, inputs) of a meta learner; with `present`, as if only those agents had voted."""
        voting = self.present if present is None else present
        return batch_inputs(feature_names, self.probabilities, voting, self.volatility, self.trend_strength)

    def masked(self, seed: int) -> Mask:
        """Which agents vote when in a tenth of the rows each of them is absent with a chance of a quarter, never all.

        So a learner knows how an abstention looks.
        """
        generator = np.random.default_rng(seed)
        whole = generator.random((len(self), 1)) >= _MASKED_SHARE
        kept = self.present & (whole | (generator.random(self.present.shape) >= _ABSENT_SHARE))
        lottery = np.where(self.present, generator.random(self.present.shape), -1.0)
        kept[np.arange(len(self)), lottery.argmax(axis=1)] = True
        return kept

    def agent_probabilities(self, agent: str) -> Array:
        """(rows, 3): what an agent said; the prior where it abstained, so that agents compare on the same rows."""
        number = AGENTS.index(agent)
        return np.where(self.present[:, [number]], self.probabilities[:, number], self.prior)

    def weighted_vote(self) -> Array:
        """(rows, 3): what the base ensemble knows, as probabilities: actions and confidences with its default weights.

        Each vote gives its action its confidence, and the rest to the other two in proportion to the prior.
        """
        voted = np.where(self.present[:, :, None], self.probabilities, 1.0)
        chosen = np.eye(3, dtype=bool)[voted.argmax(axis=2)]
        others = np.where(chosen, 0.0, self.prior[:, None, :])
        rest = (1.0 - voted.max(axis=2, keepdims=True)) * others / others.sum(axis=2, keepdims=True)
        return self._weighted(np.where(chosen, voted, rest))

    def mean_probability(self) -> Array:
        """(rows, 3): mean of the agents' probabilities with the same weights. It knows more than their votes say."""
        return self._weighted(self.probabilities)

    def _weighted(self, said: Array) -> Array:
        """Over the agents present."""
        weights = self.present * np.array([DEFAULT_WEIGHTS[agent] for agent in AGENTS])
        total = (weights[:, :, None] * np.where(self.present[:, :, None], said, 0.0)).sum(axis=1)
        mean: Array = total / weights.sum(axis=1, keepdims=True)
        return mean


def out_of_fold_votes(past: OutOfFold) -> VoteTable:
    """The votes of a walk-forward, in which every agent has said something of every row."""
    data = past.data
    return VoteTable(
        probabilities=np.stack([past.probabilities[agent] for agent in AGENTS], axis=1),
        present=np.ones((len(data), len(AGENTS)), bool),
        label=data.label,
        ts_ms=data.ts_ms,
        label_end_ms=data.label_end_ms,
        volatility=data.volatility,
        trend_strength=data.trend_strength,
        prior=past.prior,
    )
