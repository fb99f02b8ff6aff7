"""Log lines of commands on stderr, as text or as JSON.

A record may have fields, numbers and short texts by name, in its `fields` attribute (`log_fields`).

    theflash: INFO: heartbeat: lag_seconds=0.4 rows=1200
    {"ts": "2024-02-03T04:05:06.123Z", "level": "INFO", "logger": "pyspark_theflash...",
     "message": "heartbeat", "fields": {"lag_seconds": 0.4, "rows": 1200}}

Fields contain neither secrets nor values of rows.
"""

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

TEXT, JSON = "text", "json"
FORMATS: Final = (TEXT, JSON)


class TextFormatter(logging.Formatter):
    """One line of text per record; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("theflash: %(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the first line, with the fields."""
        fields = _fields(record)
        pairs = " ".join(f"{name}={_text(value)}" for name, value in fields.items())
        return super().formatMessage(record) + (f": {pairs}" if pairs else "")


class JsonFormatter(logging.Formatter):
    """One JSON object per record, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        time = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, Any] = {
            "ts": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "fields": _fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start_log(form: str = TEXT) -> None:
    """Write the log of this process to stderr, unless a program that embeds it has its own."""
    if not logging.getLogger().handlers:
        logging.basicConfig(handlers=[logging.StreamHandler()], level=logging.WARNING)
        logging.getLogger().handlers[0].setFormatter(TextFormatter())
    if form == JSON:
        for handler in logging.getLogger().handlers:
            if isinstance(handler.formatter, TextFormatter):
                handler.setFormatter(JsonFormatter())


def is_json() -> bool:
    """Return whether log lines are JSON."""
    handlers = logging.getLogger().handlers
    return any(isinstance(each.formatter, JsonFormatter) for each in handlers)


def log_fields(
    logger: logging.Logger, message: str, fields: Mapping[str, Any], level: int = logging.INFO
) -> None:
    """Log a message with fields."""
    logger.log(level, message, extra={"fields": dict(fields)})


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _text(value: object) -> str:
    """Return the text of a field's value; a mapping is `name:value` with commas."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{_text(each)}" for name, each in value.items())
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return repr(text) if any(each.isspace() for each in text) or not text else text
