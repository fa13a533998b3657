"""Log lines on stdout, as text or JSON, and in a file per service when asked."""

import json
import logging
import sys
import time

from quantum_common.service.settings import FleetSettings

FILE_NAMES = {"meta-svc": "meta-agent"}
"""The documented greps look for meta-agent.log."""


class _Utc(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%d %H:%M:%S"
    default_msec_format = "%s.%03dZ"


class _Json(_Utc):
    def format(self, record: logging.LogRecord) -> str:
        row = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row, ensure_ascii=False)


def configure(settings: FleetSettings) -> None:
    """Set the root logger up for a process."""
    formatter = _Json() if settings.log_format == "json" else _Utc("%(asctime)s %(levelname)s %(message)s")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if settings.log_dir is not None:
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        name = FILE_NAMES.get(settings.service, settings.service)
        handlers.append(logging.FileHandler(settings.log_dir / f"{name}.log", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=settings.log_level, handlers=handlers, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
