"""The report says what the numbers say, in one file that asks the network for nothing."""

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

import lgbm_agent.train
import xgb_agent.train
from quantum_research.bootstrap import Estimate
from quantum_research.evaluation import Evaluation, ModelEvaluation, evaluate_models
from quantum_research.importance import permutation_importance
from quantum_research.report import HTML_FILE, Facts, ModelFacts, Report, read_report, render, write_report
from quantum_research.report_words import interval, number, sentence
from quantum_research.shuffled_split import shuffled_split_accuracy
from quantum_research.testing import HOUR_MS, TINY, synthetic_dataset, synthetic_votes
from quantum_research.walk_forward import fit_calibrated, out_of_fold

TRAINERS = {"xgb": xgb_agent.train.TRAINER, "lgbm": lgbm_agent.train.TRAINER}


@pytest.fixture(scope="module")
def report() -> Report:
    """The two tree agents on synthetic candles, from the dataset to the report."""
    data = synthetic_dataset(rows_per_symbol=900)
    embargo_ms = data.horizon_bars * HOUR_MS
    past = out_of_fold(TRAINERS, data, TINY, embargo_ms, lambda stage: None)
    models = {}
    for agent, trainer in TRAINERS.items():
        model = fit_calibrated(trainer, data, TINY, embargo_ms)
        used = permutation_importance(model.probabilities, trainer.model, data, most_rows=200)
        models[agent] = ModelFacts("agent", "20240101-0", "unproven", dict(model.fitted.settings()), used)
    facts = Facts("1h", list(data.symbols), 5, 0.015, int(data.ts_ms.min()), int(data.label_end_ms.max()))
    return Report(
        facts=facts,
        models=models,
        walk_forward=evaluate_models(past, resamples=50),
        test=evaluate_models(synthetic_votes(data, {"lgbm": 0.5, "<b>&": 0.1}, folds=1), resamples=50),
        shuffled_split=shuffled_split_accuracy(TRAINERS["lgbm"], data, TINY),
        training={"folds": TINY.folds},
    )


class Page(HTMLParser):
    """Text, and addresses of everything that the page would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_read_back_as_it_was_written(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "new", report)
    assert read_report(tmp_path / "new") == report
    first = (tmp_path / "new" / HTML_FILE).read_bytes()
    write_report(tmp_path / "new", report)
    assert (tmp_path / "new" / HTML_FILE).read_bytes() == first


def test_the_page_is_whole_and_loads_nothing_but_its_own_pictures(report: Report) -> None:
    page = Page(render(report))
    assert page.open == []
    assert len(page.loads) >= 2 * 4 + 2  # of each model and of each section
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.loads)


def test_the_page_begins_with_the_held_out_part_and_shows_every_figure(report: Report) -> None:
    assert report.test is not None
    page = Page(render(report))
    assert page.text.index("Held-out test part") < page.text.index("Walk-forward")
    for found in (report.test, report.walk_forward):
        for model in found.models.values():
            for shown in (model.overall.gain.value, model.overall.log_loss_prior, model.overall.calibration_error):
                assert number(shown) in page.text
            assert sentence(model) in page.text
    assert "unproven" in page.text
    assert "trees_per_class" in page.text
    assert "<b>&" in page.text  # a name is text, never mark-up


def test_a_shuffled_split_appears_under_its_own_name_only(report: Report) -> None:
    assert report.shuffled_split is not None
    shown = number(report.shuffled_split.accuracy)
    page = Page(render(report)).text
    assert page[page.index("shuffled_split") :].count(shown) == 1
    assert "shuffled" not in Page(render(msgspec.structs.replace(report, shuffled_split=None))).text
    encoded = msgspec.to_builtins(report)
    assert encoded["shuffled_split"]["accuracy"] == report.shuffled_split.accuracy


def test_a_report_of_walk_forward_alone_has_one_section(report: Report) -> None:
    html = render(msgspec.structs.replace(report, test=None, training={}, models={}))
    assert len(re.findall("<h2>Walk-forward</h2>", html)) == 1
    assert "Held-out" not in html


def judged(found: Evaluation, **overall: object) -> ModelEvaluation:
    model = found.models["lgbm"]
    return msgspec.structs.replace(model, overall=msgspec.structs.replace(model.overall, **overall))


@pytest.mark.parametrize(
    ("move", "direction", "said"),
    [
        (
            (0.72, 0.70, 0.74),
            (0.53, 0.52, 0.54),
            "Knows whether the price will move (AUC .720), hardly where (AUC .530)",
        ),
        (
            (0.60, 0.58, 0.62),
            (0.56, 0.55, 0.57),
            "Knows a little whether the price will move (AUC .600), a little where",
        ),
        ((0.70, 0.68, 0.72), (0.62, 0.60, 0.64), "Knows whether the price will move (AUC .700), and where (AUC .620)"),
        ((0.51, 0.49, 0.53), (0.52, 0.49, 0.55), "Does not know whether the price will move (AUC .510), not where"),
    ],
)
def test_the_sentence_says_what_the_areas_under_the_curves_say(
    report: Report, move: tuple[float, float, float], direction: tuple[float, float, float], said: str
) -> None:
    assert report.test is not None
    model = judged(report.test, auc_move=Estimate(*move), auc_direction=Estimate(*direction))
    assert sentence(model).startswith(said)


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (Estimate(0.05, 0.04, 0.06), "Beats the class prior by .0500 [.0400, .0600]."),
        (Estimate(-0.05, -0.06, -0.04), "Is worse than the class prior by .0500."),
        (Estimate(0.01, -0.02, 0.04), "Is not better than the class prior for certain: .0100 [−.0200, .0400]."),
    ],
)
def test_the_sentence_calls_nothing_better_whose_interval_reaches_zero(
    report: Report, gain: Estimate, said: str
) -> None:
    assert report.test is not None
    assert said in sentence(judged(report.test, gain=gain))
    assert "The price never moved" in sentence(judged(report.test, auc_move=None))


def test_numbers_are_written_as_in_tables_of_the_field() -> None:
    assert [number(value) for value in (0.0624, -0.0031, 1.0912, -1.5, None)] == [
        ".0624",
        "−.0031",
        "1.0912",
        "−1.5000",
        "–",
    ]
    assert number(-0.00001) == ".0000"
    assert number(-3.2, 0) == "−3"
    assert interval(Estimate(1.0)) == ""
