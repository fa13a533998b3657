"""Every service of the fleet and the port that it listens on."""

from collections.abc import Mapping
from types import MappingProxyType

SERVICE_PORTS: Mapping[str, int] = MappingProxyType(
    {
        "meta-svc": 8001,
        "governer-svc": 8002,
        "executor-svc": 8003,
        "recorder-svc": 8004,
        "trainer-svc": 8005,
        "feature-svc": 8010,
        "xgb-agent": 8011,
        "lgbm-agent": 8012,
        "patchtst-agent": 8013,
        "nhits-agent": 8014,
        "monitor-svc": 8050,
        "exchange-sim": 8090,
    }
)
"""Documented, so that people and scripts can rely on them; `QT_PORT_OFFSET` moves them all."""
