"""The report of a training: `report.json` for programs and `report.html`, one file without network, for people."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from quantum_research import report_charts
from quantum_research.bootstrap import Estimate
from quantum_research.evaluation import Evaluation, ModelEvaluation
from quantum_research.importance import Importance
from quantum_research.report_words import interval, number, sentence
from quantum_research.shuffled_split import ShuffledSplit

JSON_FILE, HTML_FILE = "report.json", "report.html"
_TEMPLATE = "report.html.jinja"


class Facts(msgspec.Struct, frozen=True):
    """What was trained on what."""

    timeframe: str
    symbols: list[str]
    horizon_bars: int
    label_threshold: float
    """A fraction."""
    data_from_ms: int
    labels_to_ms: int
    test_from_ms: int | None = None
    """First bar that no choice has seen."""
    notes: list[str] = []


class ModelFacts(msgspec.Struct, frozen=True):
    """What training decided about one model."""

    kind: str = ""
    """agent, meta, vote."""
    version: str = ""
    quality: str = ""
    """proven, unproven, or empty for what is no model, such as the vote."""
    settings: dict[str, Any] = {}
    """Trees, epochs, temperature and the like, shown as they are."""
    importance: list[Importance] = []


class Report(msgspec.Struct, frozen=True):
    facts: Facts
    models: dict[str, ModelFacts]
    """In the order of the page; a judged model without facts is shown after them."""
    walk_forward: Evaluation
    test: Evaluation | None = None
    """The held-out rows from `test_from_ms` on."""
    meta_walk_forward: Evaluation | None = None
    """The walk-forward rows that the meta models had not seen either, with all models on them."""
    shuffled_split: ShuffledSplit | None = None
    training: dict[str, Any] = {}
    """Effort, seconds per stage and the like."""


def write_report(folder: Path, report: Report) -> None:
    """Write `report.json` and `report.html` into the folder, which is made. The same report gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    (folder / HTML_FILE).write_text(render(report), encoding="utf-8")


def read_report(folder: Path) -> Report:
    """Raises OSError and msgspec.DecodeError."""
    return msgspec.json.decode((folder / JSON_FILE).read_bytes(), type=Report)


def render(report: Report) -> str:
    """The page as one string."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, interval=interval, date=_date, share=_share, picture=_picture)
    sections = _sections(report)
    with report_charts.styled():
        return environment.get_template(_TEMPLATE).render(
            report=report,
            facts=report.facts,
            sections=sections,
            head=next(iter(sections.values())),
            sentence=sentence,
            model_facts=lambda name: report.models.get(name, ModelFacts()),
            overview=_overview,
            pictures=_pictures,
            importance=report_charts.importance,
        )


def _sections(report: Report) -> dict[str, Evaluation]:
    """Title → evaluation; the first is what the head of the page is about."""
    known = {
        "Held-out test part": report.test,
        "Walk-forward": report.walk_forward,
        "Walk-forward, meta models too": report.meta_walk_forward,
    }
    order = list(report.models)
    return {title: _in_order(found, order) for title, found in known.items() if found is not None}


def _in_order(found: Evaluation, order: list[str]) -> Evaluation:
    names = sorted(found.models, key=lambda name: order.index(name) if name in order else len(order))
    return msgspec.structs.replace(found, models={name: found.models[name] for name in names})


def _overview(found: Evaluation) -> str:
    return report_charts.gains(
        {"": {name: model.overall.gain for name, model in found.models.items()}}, "log-loss gained over the prior"
    )


def _pictures(model: ModelEvaluation, found: Evaluation) -> Iterator[tuple[str, str]]:
    """(caption, SVG) of one model."""
    yield "Calibration: on the line, confidence means what it says", report_charts.calibration(model.reliability)
    yield "How confident it is", report_charts.confidence(model.confidence)
    parts: Mapping[str, Mapping[str, Estimate]] = {
        "fold": {f"fold {name}": part.gain for name, part in model.folds.items() if len(model.folds) > 1},
        "symbol": {name: part.gain for name, part in model.symbols.items()},
        "regime": {name: part.gain for name, part in model.regimes.items()},
    }
    yield "Gain over the prior by part, 95 % interval", report_charts.gains(parts, "log-loss gained over the prior")
    yield "Trading its signals after fees", report_charts.results(model.signals, found.holding)


def _picture(svg: str) -> str:
    """As an image of its own, so that names inside one drawing cannot meet another's."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _date(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
