"""Why the meta model said so: its inputs, and the exact contributions of a linear model."""

from __future__ import annotations

from collections.abc import Sequence

from quantum_common.contracts import Explanation
from quantum_common.domain import Action
from quantum_common.models import LinearModel


def explain(
    feature_names: tuple[str, ...], inputs: Sequence[float], chosen: Action, linear: LinearModel | None
) -> Explanation:
    """What each input added to the calibrated logit of the chosen class; the rest of that logit is the bias.

    logit_k = (coefficients_k · (x − mean) / scale + intercept_k) / temperature + class_bias_k, k in CLASS_ORDER.
    Without a linear form (V1) nothing of the kind is exact, so there are no contributions.
    """
    if linear is None:
        return Explanation(feature_names, tuple(inputs), (), 0.0)
    row = chosen.class_index
    contributions = tuple(
        coefficient * ((value - mean) / scale) / linear.temperature
        for coefficient, value, mean, scale in zip(
            linear.coefficients[row], inputs, linear.mean, linear.scale, strict=True
        )
    )
    bias = linear.intercept[row] / linear.temperature + linear.class_bias[row]
    return Explanation(feature_names, tuple(inputs), contributions, bias)
