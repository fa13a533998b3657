"""Metrics of feature-svc. The label `symbol` is bounded by the settings."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from quantum_common.bus.metrics import REFUSALS
from quantum_common.features.hygiene import REASONS

DATA_AGE_SECONDS = Gauge(
    "quantum_data_age_seconds", "Market time since the newest used bar closed; NaN: there is none yet", ["symbol"]
)
STALE_SYMBOLS = Gauge("quantum_stale_symbols", "Symbols whose newest bar closed more than two timeframes ago")
BARS_PUBLISHED = Counter("quantum_bars_published_total", "Bars published with their features", ["symbol"])
BARS_REFUSED = Counter("quantum_bars_refused_total", "Bars sent to the dead-letter stream", ["reason"])
DUPLICATE_BARS = Counter("quantum_duplicate_bars_total", "Repeated bars dropped")
GAPS = Counter("quantum_gaps_total", "Gaps that the venue could not fill, by what was done", ["action"])
GAP_BARS = Counter("quantum_gap_bars_total", "Bars missing in those gaps")
ZERO_VOLUME_DIVISIONS = Counter("quantum_zero_volume_divisions_total", "Features set to 0 for want of volume")
VENUE_FAILURES = Counter("quantum_venue_failures_total", "Fetches of candles that failed")
COMMITS_REFUSED = Counter(
    "quantum_feature_commits_refused_total", "Commits that another instance was ahead of", ["status"]
)

GAP_ACTIONS = ("restarted", "stepped_over")


def begin(symbols: Iterable[str]) -> None:
    """Show the counters at 0: the first event would be no increase of a counter that was not there."""
    for symbol in symbols:
        BARS_PUBLISHED.labels(symbol)
    for reason in REASONS:
        BARS_REFUSED.labels(reason)
    for action in GAP_ACTIONS:
        GAPS.labels(action)
    for status in REFUSALS:
        COMMITS_REFUSED.labels(status)
