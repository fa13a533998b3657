"""An export is refused unless it says what the trained model says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_research import ExportRefused
from quantum_research.calibration import Calibration
from quantum_research.export import Trees, float32_floor, linear_graph, parity_rows, trees_graph, verify_export

CALIBRATION = Calibration(1.5, (0.1, 0.2, -0.3))
COEFFICIENTS = np.random.default_rng(1).normal(size=(3, 4))
INPUTS = np.random.default_rng(2).normal(size=(200, 4)).astype(np.float32)


def linear(coefficients: np.ndarray = COEFFICIENTS) -> bytes:
    return linear_graph(coefficients, np.zeros(3), np.zeros(4), np.ones(4), CALIBRATION)


def trained(coefficients: np.ndarray = COEFFICIENTS) -> np.ndarray:
    return CALIBRATION.probabilities(INPUTS.astype(np.float64) @ coefficients.T)


def test_an_export_equal_to_its_model_is_accepted() -> None:
    difference, served = verify_export(linear(), INPUTS, trained(), "meta")
    assert difference < 1e-6
    assert served.shape == (200, 3)


def test_an_export_that_differs_from_its_model_is_refused() -> None:
    with pytest.raises(ExportRefused, match="differ"):
        verify_export(linear(), INPUTS, trained(COEFFICIENTS * 1.001), "meta")


def test_f08_a_constant_model_is_refused() -> None:
    nothing = np.zeros((3, 4))
    with pytest.raises(ExportRefused, match="constant"):
        verify_export(linear(nothing), INPUTS, trained(nothing), "meta")


def test_a_model_with_weights_that_are_not_finite_is_refused() -> None:
    with pytest.raises(ExportRefused, match="probabilities"):
        verify_export(linear(COEFFICIENTS * np.nan), INPUTS, trained(), "meta")


@pytest.mark.parametrize(("mode", "left_at_threshold"), [("BRANCH_LT", False), ("BRANCH_LEQ", True)])
def test_trees_send_a_value_at_the_threshold_where_their_library_does(mode: str, left_at_threshold: bool) -> None:
    trees = Trees(mode, (0.5, 0.0, 0.0))
    trees.split(0, 0, 1, 0.25, 1, 2)
    trees.leaf(0, 1, 2.0, 2)
    trees.leaf(0, 2, -1.0, 2)
    rows = np.array([[9, 0.25], [9, 0.2], [9, 0.3]], np.float32)
    margins = np.array([[0.5, 0, 2.0 if left_at_threshold else -1.0], [0.5, 0, 2.0], [0.5, 0, -1.0]])
    verify_export(trees_graph(trees, 2, CALIBRATION), rows, CALIBRATION.probabilities(margins), "trees")


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6, width=32))
def test_a_floored_threshold_keeps_every_float32_comparison(threshold: float, value: float) -> None:
    floored = float32_floor(threshold)
    assert float(np.float32(floored)) == floored
    assert (value <= threshold) == (value <= floored)
    near = float(np.float32(threshold))
    assert (near <= threshold) == (near <= floored)


def test_parity_is_checked_on_ten_thousand_rows_from_first_to_last() -> None:
    rows = parity_rows(26_000)
    assert (len(rows), rows[0], rows[-1]) == (10_000, 0, 25_999)
    assert parity_rows(5).tolist() == [0, 1, 2, 3, 4]
