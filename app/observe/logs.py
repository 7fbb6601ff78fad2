"""Log lines on stderr: text for people, JSON for machines."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson

from app.settings import Settings

# Libraries that report every broken connection at WARNING or worse, many times a second, while we retry anyway.
# What makes Faust stop we log ourselves; it names its loggers after our modules.
_TALKATIVE = ("aiokafka", "faust", "mode", "consumers", "aiohttp.access", "httpx", "openvino", "opentelemetry")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        line = f"{stamp} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()


def set_up_logs(settings: Settings) -> None:
    """Configure the root logger once per process. At debug level the libraries speak as well."""
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(_Json() if settings.log_format == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [log]
    root.setLevel(settings.log_level.upper())
    if settings.log_level != "debug":
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(capture=True)
