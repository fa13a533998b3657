"""Pictures of the report as SVG: transparent and grey enough to be read on a light and on a dark page."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantum_research.bootstrap import Estimate
from quantum_research.importance import Importance
from quantum_research.reliability import Confidence, Reliability
from quantum_research.signal_result import Holding, SignalResult

_GREY, _BLUE, _ORANGE = "#8a8f98", "#3f8fd6", "#e08a2e"
_LINES = (_BLUE, _ORANGE, "#4fae6a", "#b36ae2")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: smaller, and in the reader's font
    "svg.hashsalt": "quantum",  # the same figures give the same bytes
    "font.size": 11,
    "text.color": _GREY,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "legend.frameon": False,
}
_WIDTH_IN, _HEIGHT_IN = 5.4, 3.4


def calibration(found: Reliability) -> str:
    figure, axes = _figure()
    axes.plot([1 / 3, 1], [1 / 3, 1], color=_GREY, linestyle="--", linewidth=1)
    most = max(b.rows for b in found.curve)
    confidences, accuracies = [b.confidence for b in found.curve], [b.accuracy for b in found.curve]
    axes.plot(confidences, accuracies, color=_BLUE, linewidth=1)
    axes.scatter(confidences, accuracies, color=_BLUE, s=[12 + 90 * b.rows / most for b in found.curve])
    axes.set(xlabel="confidence", ylabel="share that was right", xlim=(0.3, 1.02), ylim=(-0.02, 1.02))
    return _svg(figure)


def confidence(found: Confidence) -> str:
    figure, axes = _figure()
    axes.stairs(found.counts, found.edges, fill=True, color=_BLUE)
    axes.set(xlabel="confidence", ylabel="bars (log)", yscale="symlog", ylim=(0, 2 * max(found.counts)))
    return _svg(figure)


def gains(groups: Mapping[str, Mapping[str, Estimate]], label: str) -> str:
    """Estimates with their intervals, one below the other, group after group."""
    places, names = [], []
    place = 0.0
    figure = Figure(figsize=(_WIDTH_IN, 0.9 + 0.29 * sum(len(group) for group in groups.values())))
    axes = figure.add_subplot()
    axes.axvline(0, color=_GREY, linewidth=1, linestyle="--")
    for color, group in zip(_LINES, groups.values(), strict=False):
        for name, found in group.items():
            if found.low is not None and found.high is not None:
                axes.plot([found.low, found.high], [place, place], color=color, linewidth=2, solid_capstyle="butt")
            axes.plot(found.value, place, "o", color=color, markersize=5)
            places.append(place)
            names.append(name)
            place -= 1.0
        place -= 0.5
    axes.set_yticks(places, names)
    axes.set(xlabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return _svg(figure)


def results(signals: Sequence[SignalResult], held: Holding) -> str:
    figure, axes = _figure()
    _over_time(axes, held.curve, "holding", _GREY, "--")
    for color, found in zip(_LINES, signals, strict=False):
        if found.trades:
            _over_time(axes, found.curve, f"{found.rule} ({found.trades} trades)", color, "-")
    axes.axhline(0, color=_GREY, linewidth=0.5)
    axes.set(ylabel="net result, % of capital")
    axes.legend(fontsize=9, loc="best")
    axes.tick_params(axis="x", labelrotation=30)
    return _svg(figure)


def importance(found: Sequence[Importance]) -> str:
    return gains({"": {each.feature: each.loss_increase for each in found}}, "log-loss added when permuted")


def _over_time(axes: Axes, curve: Sequence[tuple[int, float]], label: str, color: str, style: str) -> None:
    days = np.array([ts_ms for ts_ms, _ in curve], dtype="datetime64[ms]")
    axes.plot(days, [level for _, level in curve], label=label, color=color, linestyle=style, linewidth=1.4)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN))
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    return out.getvalue().decode()


@contextmanager
def styled() -> Iterator[None]:
    """Pictures are drawn inside this context: the process's own settings stay as they are."""
    with mpl.rc_context(_STYLE):
        yield
