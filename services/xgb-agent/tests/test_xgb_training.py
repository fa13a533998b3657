"""Fitting and export of the xgb agent."""

from importlib.metadata import entry_points

from quantum_research.forecaster import ENTRY_POINT_GROUP
from quantum_research.testing import check_trainer
from xgb_agent.model import MODEL
from xgb_agent.train import TRAINER


def test_the_exported_xgb_model_is_the_trained_one_at_every_batch_size_and_can_be_repeated() -> None:
    check_trainer(TRAINER)


def test_the_xgb_trainer_makes_the_model_that_is_served() -> None:
    assert TRAINER.model == MODEL
    assert MODEL.agent == "xgb"


def test_training_finds_the_xgb_agent_by_its_entry_point() -> None:
    (point,) = entry_points(group=ENTRY_POINT_GROUP, name="xgb")
    assert point.load() is TRAINER
