"""Decides a batch of bars with one call of the model. The app, the what-if route and MetaAgentV2 share it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from meta_svc.core import Outcome, Policy, conclude, draft
from meta_svc.question import Question
from quantum_common.models import LinearModel

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.float32]
"""(batch, width)."""
Probabilities = npt.NDArray[np.float64]
"""(batch, 3): P(SELL), P(HOLD), P(BUY)."""


class MetaModel(Protocol):
    """A model that serves. `predict` may raise anything."""

    @property
    def version(self) -> str: ...
    @property
    def quality(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def linear(self) -> LinearModel | None: ...
    def predict(self, rows: Rows) -> Probabilities: ...


def decide(questions: Sequence[Question], policy: Policy, model: MetaModel | None) -> list[Outcome]:
    """One outcome per question, in order. An outcome does not depend on the other questions of the batch."""
    drafts = [draft(question, policy, model.width if model else None) for question in questions]
    asked = [number for number, drafted in enumerate(drafts) if drafted.inputs is not None]
    rows = np.array([drafts[number].inputs for number in asked], dtype=np.float32)
    answers = dict(zip(asked, _predict(model, rows), strict=True)) if model and asked else {}
    return [
        conclude(drafted, answers.get(number), policy, model.linear if model else None)
        for number, drafted in enumerate(drafts)
    ]


def _predict(model: MetaModel, rows: Rows) -> list[list[float] | None]:
    """Probabilities per row, None where the model raised; after a failure each row is tried alone."""
    try:
        return list(model.predict(rows).tolist())
    except Exception as error:  # the runtime's own exception types are not public: any of them is prediction_error
        if len(rows) == 1:
            log.exception("meta model failed: %s", type(error).__name__)
            return [None]
    return [_predict(model, row[np.newaxis])[0] for row in rows]
